package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// WALDir is where a data directory keeps its log.
func WALDir(data string) string { return filepath.Join(data, "member", "wal") }

// DBFile is where a data directory keeps its database.
func DBFile(data string) string { return filepath.Join(data, "member", "snap", "db") }

// Log is what etcd's own reader finds in a directory's log.
type Log struct {
	Snapshot    uint64 // the newest snapshot record that is covered by a commit
	First, Last uint64 // entries after it
	Commit      uint64
}

// CheckWAL reads the log with etcd's own packages.
func CheckWAL(data string) (Log, error) {
	dir, lg := WALDir(data), zap.NewNop()
	snapshots, err := wal.ValidSnapshotEntries(lg, dir)
	if err != nil {
		return Log{}, fmt.Errorf("wal.ValidSnapshotEntries: %w", err)
	}
	at := &walpb.Snapshot{}
	if len(snapshots) > 0 {
		at = snapshots[len(snapshots)-1]
	}
	if _, err := wal.Verify(lg, dir, at); err != nil {
		return Log{}, fmt.Errorf("wal.Verify: %w", err)
	}
	w, err := wal.OpenForRead(lg, dir, at)
	if err != nil {
		return Log{}, fmt.Errorf("wal.OpenForRead: %w", err)
	}
	defer w.Close()
	_, state, entries, err := w.ReadAll()
	if err != nil {
		return Log{}, fmt.Errorf("wal.ReadAll: %w", err)
	}
	found := Log{Snapshot: at.GetIndex(), Commit: state.GetCommit()}
	if len(entries) > 0 {
		found.First, found.Last = entries[0].GetIndex(), entries[len(entries)-1].GetIndex()
	}
	return found, nil
}

// CheckDB walks the whole database with bbolt's own checker.
func CheckDB(file string) error {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		return fmt.Errorf("bbolt open: %w", err)
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		var all []error
		for err := range tx.Check() {
			all = append(all, err)
		}
		return errors.Join(all...)
	})
}

// Etcdutl runs the real etcdutl.
func Etcdutl(args ...string) (string, error) {
	t, err := LoadTools()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(t.Etcdutl, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("etcdutl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// CheckDir reads a stopped member's directory with every tool of etcd's that reads one.
func CheckDir(data string) error {
	if _, err := CheckWAL(data); err != nil {
		return err
	}
	if err := CheckDB(DBFile(data)); err != nil {
		return fmt.Errorf("bbolt check: %w", err)
	}
	if _, err := Etcdutl("snapshot", "status", DBFile(data)); err != nil {
		return err
	}
	_, err := Etcdutl("hashkv", DBFile(data))
	return err
}

// The kinds of records in a log.
const (
	recordEntry    = 2
	recordSnapshot = 5
)

// Installed counts the snapshots that a member got from others, as its log shows: the records of a
// snapshot whose index is beyond every entry before it.
func Installed(data string) (int, error) {
	files, err := LogFiles(data)
	if err != nil {
		return 0, err
	}
	installed, last := 0, uint64(0)
	for _, file := range files {
		frames, err := Frames(file)
		if err != nil {
			return 0, err
		}
		bytes, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		for _, frame := range frames {
			from, to := frame.Offset+8, frame.Offset+8+frame.Size
			record := &walpb.Record{}
			if to > int64(len(bytes)) || proto.Unmarshal(bytes[from:to], record) != nil {
				return installed, nil // the torn end of a log in use
			}
			switch record.GetType() {
			case recordEntry:
				entry := &raftpb.Entry{}
				if err := proto.Unmarshal(record.Data, entry); err != nil {
					return 0, err
				}
				last = entry.GetIndex()
			case recordSnapshot:
				snapshot := &walpb.Snapshot{}
				if err := proto.Unmarshal(record.Data, snapshot); err != nil {
					return 0, err
				}
				if snapshot.GetIndex() > last {
					installed, last = installed+1, snapshot.GetIndex()
				}
			}
		}
	}
	return installed, nil
}

// Identity says whose log a directory has: the metadata with which it begins.
func Identity(data string) (string, error) {
	files, err := LogFiles(data)
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("no log in %s: %w", data, err)
	}
	w, err := wal.OpenForRead(zap.NewNop(), WALDir(data), &walpb.Snapshot{})
	if err != nil {
		return "", err
	}
	defer w.Close()
	metadata, _, entries, err := w.ReadAll()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x, %d entries", metadata, len(entries)), nil
}
