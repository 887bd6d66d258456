package harness

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sort"
)

// Frame is where one record lies in a log file.
type Frame struct {
	Offset int64 // of the length field
	Size   int64 // of the record itself, without length field and padding
}

// LogFiles lists the segments of a directory's log in order.
func LogFiles(data string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(WALDir(data), "*.wal"))
	sort.Strings(files)
	return files, err
}

// Frames finds the records of one segment.
func Frames(file string) ([]Frame, error) {
	bytes, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var frames []Frame
	for at := int64(0); at+8 <= int64(len(bytes)); {
		field := binary.LittleEndian.Uint64(bytes[at:])
		if field == 0 {
			break
		}
		size := int64(field & (1<<56 - 1))
		pad := int64(0)
		if top := field >> 56; top != 0 {
			pad = int64(top & 7)
		}
		frames = append(frames, Frame{Offset: at, Size: size})
		at += 8 + size + pad
	}
	return frames, nil
}

// Patch changes bytes of a file in place.
func Patch(file string, offset int64, change func([]byte), n int) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	part := make([]byte, n)
	if _, err := f.ReadAt(part, offset); err != nil {
		return err
	}
	change(part)
	_, err = f.WriteAt(part, offset)
	return err
}
