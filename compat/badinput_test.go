package compat

import (
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate/compat/harness"
)

// flip changes one bit.
func flip(part []byte) { part[0] ^= 0x10 }

// spoiled is a directory with history, left by a product, that a test may break copies of.
type spoiled struct {
	m     *harness.Member
	clean string // where the unbroken directory is kept
	state string
	// The log no longer begins at the beginning: what its snapshots cover is only in the database.
	released bool
}

func newSpoiled(t *testing.T, kind harness.Kind, flags ...string) *spoiled {
	m := harness.Launch(t, kind, flags...)
	work(t, m, rand.New(rand.NewSource(6)), 300)
	disarm(t, m)
	client := m.Client()
	for i := range 40 { // so that the database has more than a few pages
		if _, err := client.Put(t.Context(), fmt.Sprintf("page/%02d", i), strings.Repeat("p", 3000)); err != nil {
			t.Fatal(err)
		}
	}
	client.Close()
	s := &spoiled{m: m, clean: filepath.Join(t.TempDir(), "clean"), state: state(t, m),
		released: len(flags) > 0}
	harness.MustStop(t, m)
	harness.CopyDir(t, m.Dir, s.clean)
	return s
}

// again restores the directory and makes its member ours.
func (s *spoiled) again(t *testing.T) *harness.Member {
	t.Helper()
	s.m.Kill()
	if err := os.RemoveAll(s.m.Dir); err != nil {
		t.Fatal(err)
	}
	harness.CopyDir(t, s.clean, s.m.Dir)
	s.m.Kind = harness.Ours
	return s.m
}

// segment is the last segment of the log and its records.
func (s *spoiled) segment(t *testing.T) (string, []harness.Frame) {
	t.Helper()
	files, err := harness.LogFiles(s.m.Dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("no log: %v", err)
	}
	file := files[len(files)-1]
	frames, err := harness.Frames(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, frames
}

func patch(t *testing.T, file string, offset int64, change func([]byte), n int) {
	t.Helper()
	if err := harness.Patch(file, offset, change, n); err != nil {
		t.Fatal(err)
	}
}

// refused starts the member, which must end by itself with one line.
func refused(t *testing.T, m *harness.Member, words ...string) {
	t.Helper()
	if err := m.Spawn(); err != nil {
		t.Fatal(err)
	}
	refusal(t, m, words...)
}

// damaged starts the member, which must refuse in one line: the file, the byte, what is wrong with
// it, and what to do.
func damaged(t *testing.T, m *harness.Member, file string, offset int64, words ...string) {
	t.Helper()
	at := fmt.Sprintf("%s: damaged at byte %d: ", file, offset)
	refused(t, m, append(words, at, "; restore the member from a snapshot")...)
}

// TestBadInput breaks data directories and flags: ours must refuse them with a line that says what
// and where, or repair them and say so.
func TestBadInput(t *testing.T) {
	if realTwice() {
		t.Skip("asks how ours says it")
	}
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		s := newSpoiled(t, kind)
		t.Run(fmt.Sprintf("database missing, log released, left by %s", kind),
			newSpoiled(t, kind, "--snapshot-count=40").rebuilt)
		run := func(name string, f func(t *testing.T)) {
			t.Run(fmt.Sprintf("%s left by %s", name, kind), f)
		}
		run("flipped bit in the log", s.flippedLog)
		run("flipped bit in a length field", s.flippedLength)
		run("torn tail of the log", s.tornTail)
		run("lost tail of the log", s.lostTail)
		run("both meta pages flipped", s.flippedMetas)
		run("one meta page flipped", s.flippedMeta)
		run("page header flipped", s.flippedPages)
		run("elements and rows flipped", s.flippedElements)
		run("database cut off", s.cutDatabase)
		run("database of zeros", s.zeroDatabase)
		run("database missing", s.rebuilt)
		run("log segment missing", s.missingSegment)
	}
	t.Run("flags", badFlags)
	t.Run("places", badPlaces)
}

func (s *spoiled) flippedLog(t *testing.T) {
	for _, part := range []float64{0.1, 0.5, 0.9} {
		m := s.again(t)
		file, frames := s.segment(t)
		f := frames[int(part*float64(len(frames)))]
		patch(t, file, f.Offset+8+f.Size-1, flip, 1) // the last byte is data, covered by the checksum
		damaged(t, m, file, f.Offset, "one bit of a record is wrong")
	}
}

func (s *spoiled) flippedLength(t *testing.T) {
	m := s.again(t)
	file, frames := s.segment(t)
	f := frames[len(frames)/2]
	patch(t, file, f.Offset+1, flip, 1)
	damaged(t, m, file, f.Offset, "one bit of a length is wrong")
}

// tear ends the log in such a record.
func (s *spoiled) tear(t *testing.T) string {
	t.Helper()
	file, frames := s.segment(t)
	last := frames[len(frames)-1]
	end := (last.Offset + 8 + last.Size + 7) / 8 * 8
	patch(t, file, end, func(part []byte) {
		binary.LittleEndian.PutUint64(part, 3000)
		for i := range part[8:] {
			part[8+i] = 0x10
		}
	}, int((end/512+1)*512-end))
	return file
}

// tornTail: a last record of several sectors, of which only the first was written: etcd's sign of
// a write that nobody was told of.
func (s *spoiled) tornTail(t *testing.T) {
	m := s.again(t)
	file := s.tear(t)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	said := false
	for _, line := range splitLines(m.LastLog()) {
		if strings.Contains(line, filepath.Base(file)) &&
			(strings.Contains(line, "repair") || strings.Contains(line, "torn")) {
			said = true
			t.Logf("said: %s", line)
		}
	}
	if !said {
		t.Errorf("a repaired tail must be said\n%s", m.LogTail(20))
	}
	before := state(t, m)
	if before != s.state {
		t.Errorf("the data differ\n%s", differences(s.state, before))
	}
	harness.MustStop(t, m)
	m.Kind = harness.Real
	harness.MustStart(t, m)
	if after := state(t, m); after != before {
		t.Errorf("etcd reads the repaired directory differently\n%s", differences(before, after))
	}
	harness.MustStop(t, m)
}

// lostTail: sectors are missing that the database has seen the entries of, so that they were
// written once. What goes on from there forgets writes.
func (s *spoiled) lostTail(t *testing.T) {
	m := s.again(t)
	file, frames := s.segment(t)
	f := frames[0]
	for _, one := range frames {
		if one.Size > 2500 {
			f = one
		}
	}
	end := frames[len(frames)-1]
	from := (f.Offset + 8 + 512 + 511) / 512 * 512
	patch(t, file, from, func(part []byte) { clear(part) }, int(end.Offset+8+end.Size+8-from))
	refused(t, m, harness.WALDir(m.Dir)+": it ends at entry ", ", but the database has entry ",
		"; restore the member from a snapshot")
}

func (s *spoiled) flippedMetas(t *testing.T) {
	m := s.again(t)
	file := harness.DBFile(m.Dir)
	patch(t, file, 40, flip, 1)
	patch(t, file, 4096+40, flip, 1)
	damaged(t, m, file, 72, "checksum")
}

// flippedMeta: one meta page may be torn by a crash, so the other one must do; nothing may be lost,
// and it must be said.
func (s *spoiled) flippedMeta(t *testing.T) {
	for page := range int64(2) {
		m := s.again(t)
		patch(t, harness.DBFile(m.Dir), page*4096+40, flip, 1)
		if err := m.Spawn(); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitReady(harness.StartTimeout); err != nil {
			refusal(t, m, "snap/db", "at byte")
			continue
		}
		if after := state(t, m); after != s.state {
			t.Errorf("meta page %d: the data differ\n%s", page, differences(s.state, after))
		}
		said := fmt.Sprintf("%s: damaged at byte %d: ", harness.DBFile(m.Dir), page*4096+72)
		if !strings.Contains(m.LastLog(), said) {
			t.Errorf("no line with %q\n%s", said, m.LogTail(20))
		}
		harness.MustStop(t, m)
	}
}

// flippedPages breaks headers of pages in use, one at a time; each must be refused, unless nothing
// needs the page any more.
func (s *spoiled) flippedPages(t *testing.T) {
	m := s.again(t)
	file := harness.DBFile(m.Dir)
	pages, err := harness.Pages(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pages); i += 1 + len(pages)/8 {
		for at, what := range map[int64]string{0: "calls itself page", 8: "neither branch nor leaf"} {
			offset := pages[i]*4096 + at
			m := s.again(t)
			patch(t, file, offset, flip, 1)
			damaged(t, m, file, offset, what)
		}
	}
}

// leaf finds a leaf page with several rows whose bytes are revisions, and where its elements' keys
// begin; the first rows are puts. The rows of bucket "key" are the only ones of 17 bytes.
func leaf(t *testing.T, file string) (page int64, keys []int64) {
	t.Helper()
	bytes, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := harness.Pages(file)
	if err != nil {
		t.Fatal(err)
	}
	number := func(at int64) int64 { return int64(binary.LittleEndian.Uint32(bytes[at:])) }
	for _, page := range pages {
		head := page * 4096
		count := number(head+8) >> 16
		puts := number(head+8)&0xffff == 2 && count >= 4
		for i := range min(count, 4) { // of 18 bytes are the keys of deletions
			puts = puts && number(head+16+16*i+8) == 17
		}
		if !puts {
			continue
		}
		for i := range count {
			element := head + 16 + 16*i
			keys = append(keys, element+number(element+4))
		}
		return head, keys
	}
	t.Fatal("no leaf of bucket key")
	return 0, nil
}

// flippedElements breaks what stands on a page behind its header: the table of elements, the order
// of the keys, a row.
func (s *spoiled) flippedElements(t *testing.T) {
	file := harness.DBFile(s.again(t).Dir)
	head, keys := leaf(t, file)
	element := func(i int64) int64 { return head + 16 + 16*i }
	for _, one := range []struct {
		what       string
		at, damage int64
	}{
		{"unknown flags", element(1), element(1)},
		{"not where it should be", element(1) + 4, element(1)},
		{"out of order", element(2) + 8, element(2)}, // the key is cut to one byte
		{"not where it should be", element(2) + 12, element(3)},
		{"do not fit the page", head + 11, head + 10},
		{"out of order", keys[1], element(2)}, // the first byte of a revision
		{"not named by a revision", keys[1] + 8, keys[1]},
		{"the row is not of this revision, or has no key", keys[2] + 17, keys[2]}, // another field
	} {
		m := s.again(t)
		patch(t, file, one.at, flip, 1)
		damaged(t, m, file, one.damage, one.what)
	}
}

func (s *spoiled) cutDatabase(t *testing.T) {
	for _, size := range []int64{1, 4096, 8192, 20000} {
		m := s.again(t)
		if err := os.Truncate(harness.DBFile(m.Dir), size); err != nil {
			t.Fatal(err)
		}
		damaged(t, m, harness.DBFile(m.Dir), size, "the file ends before")
	}
}

// rebuilt: without a database, the log alone must do when it is whole, and be refused when it is not.
func (s *spoiled) rebuilt(t *testing.T) {
	for _, how := range []func(string) error{
		os.Remove, func(file string) error { return os.Truncate(file, 0) },
	} {
		m := s.again(t)
		if err := how(harness.DBFile(m.Dir)); err != nil {
			t.Fatal(err)
		}
		if s.released {
			refused(t, m, "database", "snapshot")
			continue
		}
		harness.MustStart(t, m)
		if after := state(t, m); after != s.state {
			t.Errorf("the data differ\n%s", differences(s.state, after))
		}
	}
}

func (s *spoiled) zeroDatabase(t *testing.T) {
	m := s.again(t)
	if err := os.WriteFile(harness.DBFile(m.Dir), make([]byte, 65536), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged(t, m, harness.DBFile(m.Dir), 16, "not a database")
}

func (s *spoiled) missingSegment(t *testing.T) {
	m := s.again(t)
	file, _ := s.segment(t)
	if err := os.Rename(file, filepath.Join(filepath.Dir(file),
		"0000000000000007-0000000000000009.wal")); err != nil {
		t.Fatal(err)
	}
	refused(t, m, filepath.Join("member", "wal"), "; restore the member from a snapshot")
}

// badFlags: a flag that makes no sense is named in one line.
func badFlags(t *testing.T) {
	for _, flag := range []string{"--nonsense", "--nonsense=1", "--listen-client-urls=nonsense",
		"--listen-client-urls=http://127.0.0.1", "--heartbeat-interval=x", "--election-timeout=-1",
		"--heartbeat-interval=1000", "--auto-compaction-mode=nonsense", "--snapshot-count=x",
		"--initial-cluster=other=http://127.0.0.1:1", "--initial-cluster-state=nonsense",
		"--quota-backend-bytes=1.5", "--log-level=nonsense", "--auto-compaction-retention=x",
		"--listen-peer-urls=ftp://127.0.0.1:1", "--max-txn-ops=x"} {
		t.Run(flag, func(t *testing.T) {
			m := harness.Prepare(t, harness.Ours, flag)
			name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
			switch name { // etcd's own words
			case "initial-cluster":
				name = "initial cluster configuration"
			case "auto-compaction-retention":
				name = "CompactionRetention"
			}
			refused(t, m, name)
		})
	}
}

// badPlaces: a place that cannot be used is named in one line.
func badPlaces(t *testing.T) {
	t.Run("the directory is a file", func(t *testing.T) {
		m := harness.Prepare(t, harness.Ours)
		if err := os.WriteFile(m.Dir, []byte("a file"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, m, filepath.Base(m.Dir))
	})
	t.Run("the port is taken", func(t *testing.T) {
		other := harness.Launch(t, harness.Real)
		m := harness.Prepare(t, harness.Ours, "--listen-client-urls="+other.ClientURL())
		refused(t, m, other.Endpoint(), "in use")
	})
}
