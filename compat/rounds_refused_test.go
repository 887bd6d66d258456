package compat

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"quorate/compat/harness"
)

// tree describes every file below a directory: name, mode, length, checksum.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			fmt.Fprintf(&out, "%s %s\n", name, entry.Type())
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
		_, err = io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{file}, make([]byte, 1<<20))
		fmt.Fprintf(&out, "%s %s %d %08x\n", name, info.Mode(), info.Size(), sum.Sum32())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A spoiling makes of a whole directory one that no member can start on.
type spoiling struct {
	name  string
	spoil func(t *testing.T, dir string)
	flags []string // DIR stands for the data directory
	words []string // of the line; none: ours starts
	small bool     // on a directory whose log begins at the beginning
}

func setRow(bucket, key, value string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		editDB(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), []byte(value)) })
	}
}

func deleting(names ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		for _, name := range names {
			found, err := filepath.Glob(filepath.Join(dir, name))
			if err != nil || len(found) == 0 {
				t.Fatalf("no %s: %v", name, err)
			}
			for _, path := range found {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func writing(name string, content []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func cutting(name string, size int64) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
			t.Fatal(err)
		}
	}
}

func inTurn(all ...func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		for _, step := range all {
			step(t, dir)
		}
	}
}

// tearLog ends the log in a write that came to the disk in part, which a start would repair.
func tearLog(t *testing.T, dir string) {
	t.Helper()
	(&spoiled{m: &harness.Member{Dir: dir}}).tear(t)
}

// loseLogEnd removes the newest segment, or what is in it.
func loseLogEnd(t *testing.T, dir string) {
	t.Helper()
	files, err := harness.LogFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	frames, err := harness.Frames(files[len(files)-1])
	if err != nil || len(frames) < 20 {
		t.Fatalf("%d frames: %v", len(frames), err)
	}
	if err := os.Truncate(files[len(files)-1], frames[len(frames)-15].Offset); err != nil {
		t.Fatal(err)
	}
}

// spoilings are all ways in which a directory is none to start on.
func spoilings() []spoiling {
	const database, log = "member/snap/db", "member/wal/*.wal"
	zeros := make([]byte, 65536)
	all := []spoiling{
		{name: "storage version 3.8", spoil: setRow("meta", "storageVersion", "3.8.0"), words: []string{"storage version 3.8.0"}},
		{name: "storage version 4.0", spoil: setRow("meta", "storageVersion", "4.0.0"), words: []string{"storage version 4.0.0"}},
		{name: "storage version of nobody", spoil: setRow("meta", "storageVersion", "new"), words: []string{"storageVersion"}},
		{name: "cluster version 3.8", spoil: setRow("cluster", "clusterVersion", "3.8.0"), words: []string{"cluster version 3.8.0"}},
		{name: "cluster version 4.0", spoil: setRow("cluster", "clusterVersion", "4.0.0"), words: []string{"cluster version 4.0.0"}},
		{name: "newer, with a torn log and leftovers", spoil: inTurn(setRow("meta", "storageVersion", "3.8.0"), tearLog,
			writing("member/snap/db.tmp.1", zeros), writing("member/snap/tmp1", zeros), writing("member/wal/1.tmp", zeros)),
			words: []string{"storage version 3.8.0"}},
		{name: "authentication enabled", spoil: setRow("auth", "authEnabled", "\x01"), words: []string{"authentication enabled"}},
		{name: "no log", spoil: deleting("member/wal"), words: []string{"write-ahead log", "there is none", "snap/db with entry"}},
		{name: "an empty log directory", spoil: deleting(log), words: []string{"there is none"}},
		{name: "no log, no database", spoil: deleting("member/wal", database), words: []string{"there is none", ".snap"}},
		{name: "the log is elsewhere", spoil: func(*testing.T, string) {}, flags: []string{"--wal-dir=DIR/other"},
			words: []string{"DIR/other", "there is none"}},
		{name: "another's files at --wal-dir", spoil: inTurn(deleting("member"), writing("other/precious", []byte("mine"))),
			flags: []string{"--wal-dir=DIR/other"}, words: []string{"DIR/other", "precious"}},
		{name: "another's files in the log directory", spoil: inTurn(deleting("member"), writing("member/wal/precious", []byte("mine"))),
			words: []string{"member/wal", "precious"}},
		{name: "no database, log released", spoil: deleting(database), words: []string{"database", "the newest snapshot is at"}},
		{name: "no snapshots and no database, log released", spoil: deleting("member/snap"), words: []string{"database", "snapshot"}},
		{name: "the end of the log", spoil: loseLogEnd, words: []string{"but the database has entry"}},
		{name: "a segment in the middle", spoil: func(t *testing.T, dir string) {
			files, err := harness.LogFiles(dir)
			if err == nil {
				last := files[len(files)-1]
				err = os.Rename(last, filepath.Join(filepath.Dir(last), "0000000000000007-0000000000ffffff.wal"))
			}
			if err != nil {
				t.Fatal(err)
			}
		}, words: []string{"member/wal"}},
		{name: "a part of the database", spoil: cutting(database, 16384), words: []string{"snap/db", "the file ends before"}},
		{name: "a database of zeros", spoil: writing(database, zeros), words: []string{"not a database"}},
		{name: "a text instead of the database", spoil: writing(database, bytes.Repeat([]byte("text\n"), 9999)), words: []string{"not a database"}},
		{name: "a text and no log", spoil: inTurn(deleting("member"), writing(database, bytes.Repeat([]byte("text\n"), 9999))),
			words: []string{"not a database"}},
		{name: "a directory instead of the database", spoil: inTurn(deleting(database), writing(database+"/x", nil)), words: []string{"snap/db"}},
		{name: "member is a file", spoil: inTurn(deleting("member"), writing("member", []byte("x"))), words: []string{"member"}},
		{name: "member and proxy", spoil: writing("proxy/cluster", []byte("x")), words: []string{"both member and proxy"}},
		{name: "proxy alone", spoil: inTurn(deleting("member"), writing("proxy/cluster", []byte("x"))), words: []string{"proxy"}},
		// These start, as in etcd.
		{name: "no snapshots", spoil: deleting("member/snap/*.snap")},
		{name: "leftovers", spoil: inTurn(writing("member/snap/db.tmp.1", zeros), writing("member/snap/tmp1", zeros), writing("member/wal/1.tmp", zeros))},
		{name: "a torn log", spoil: tearLog},
		{name: "other files beside member", spoil: writing("lost+found/x", zeros)},
		{name: "no database, whole log", spoil: deleting(database), small: true},
		{name: "no storage version", spoil: func(t *testing.T, dir string) {
			editDB(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte("storageVersion")) })
		}},
		{name: "a stale ConfState", spoil: setRow("meta", "confState", `{"voters":[1,2,3],"learners":[4],"auto_leave":false}`)},
		{name: "no ConfState", spoil: func(t *testing.T, dir string) {
			editDB(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte("confState")) })
		}},
		{name: "an empty database that a killed etcd made", spoil: inTurn(deleting("member"), func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, "member/snap"), 0o700); err != nil {
				t.Fatal(err)
			}
			editDB(t, dir, func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("meta")); return err })
		})},
	}
	return all
}

// TestUntouched starts ours, in every way, on directories that are newer than it knows, copied in part or
// not etcd's: each is refused with one line and stays what it was, byte for byte. With COMPAT_ROUNDS_REAL
// etcd 3.7 starts on each of them, too, and what becomes of them is told.
func TestUntouched(t *testing.T) {
	t.Parallel()
	if realTwice() {
		t.Skip("asks how ours says it")
	}
	clean := map[bool]string{}
	wholes := map[bool]*harness.Member{}
	for _, small := range []bool{false, true} {
		flags := []string{"--snapshot-count=100000"}
		if !small {
			flags = []string{"--snapshot-count=40"}
		}
		m := harness.Launch(t, harness.Real, flags...)
		work(t, m, rand.New(rand.NewSource(8)), 150)
		disarm(t, m)
		harness.MustStop(t, m)
		clean[small], wholes[small] = filepath.Join(t.TempDir(), "clean"), m
		harness.CopyDir(t, m.Dir, clean[small])
	}
	for _, one := range spoilings() {
		t.Run(one.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "m.etcd")
			m := wholes[one.small].Clone(harness.Ours, dir)
			untouched(t, one, m, clean[one.small])
		})
	}
}

func untouched(t *testing.T, one spoiling, m *harness.Member, clean string) {
	t.Helper()
	harness.CopyDir(t, clean, m.Dir)
	one.spoil(t, m.Dir)
	var flags []string
	for _, flag := range one.flags {
		flags = append(flags, strings.ReplaceAll(flag, "DIR", m.Dir))
	}
	defer m.Kill()
	before := tree(t, m.Dir)
	if len(one.words) == 0 {
		m.Flags = flags
		harness.MustStart(t, m)
		m.Kill()
		t.Logf("starts%s", realOn(t, one, m, clean, flags))
		return
	}
	var words []string
	for _, word := range one.words {
		words = append(words, strings.ReplaceAll(word, "DIR", m.Dir))
	}
	for _, more := range [][]string{nil, {"--initial-cluster-state=existing"}, {"--force-new-cluster"},
		{"--initial-cluster-token=other", "--snapshot-count=5", "--unsafe-no-fsync"}, {"--initial-cluster=m9=http://127.0.0.1:1"}} {
		m.Flags = append(slices.Clone(flags), more...)
		if len(more) > 0 {
			words = []string{`"fatal"`, "discovery failed"} // another reason may come first
		}
		refused(t, m, words...)
		if after := tree(t, m.Dir); after != before {
			t.Errorf("%v: touched\n%s", more, differences(before, after))
		}
	}
	t.Logf("refused%s", realOn(t, one, m, clean, flags))
}

// realOn starts real etcd on such a directory and says what comes of it.
func realOn(t *testing.T, one spoiling, m *harness.Member, clean string, flags []string) string {
	t.Helper()
	if os.Getenv("COMPAT_ROUNDS_REAL") == "" {
		return ""
	}
	twin := m.Clone(harness.Real, filepath.Join(t.TempDir(), "m.etcd"))
	harness.CopyDir(t, clean, twin.Dir)
	one.spoil(t, twin.Dir)
	for i := range flags {
		flags[i] = strings.ReplaceAll(flags[i], m.Dir, twin.Dir)
	}
	twin.Flags = flags
	defer twin.Kill()
	before := tree(t, twin.Dir)
	if err := twin.Spawn(); err != nil {
		t.Fatal(err)
	}
	became := "starts"
	if err := twin.WaitReady(6 * time.Second); err != nil {
		became = "does not serve"
		if !twin.Running() {
			became = "ends: " + lastLine(twin)
		}
	}
	twin.Kill()
	if tree(t, twin.Dir) != before {
		became += " (touched)"
	}
	return "\n    etcd 3.7 " + became
}

// lastError is the line with which a member ended.
func lastLine(m *harness.Member) string {
	lines := splitLines(m.LastLog())
	for _, line := range slices.Backward(lines) {
		if strings.Contains(line, `"fatal"`) || strings.Contains(line, `"panic"`) || strings.HasPrefix(line, "panic:") {
			line, _, _ = strings.Cut(line, `,"stacktrace"`)
			if _, message, found := strings.Cut(line, `"msg":`); found {
				line = message
			}
			return fmt.Sprintf("%.300s", strings.ReplaceAll(line, m.Dir, "DIR"))
		}
	}
	return "without a word"
}

// TestUntouchedRequests is the same where the log has what only etcd can apply: a new user that is not in
// the database yet, and a key of the v2 API. etcd goes on from there, and ours after it when it can.
func TestUntouchedRequests(t *testing.T) {
	t.Parallel()
	t.Run("a user", func(t *testing.T) {
		t.Parallel()
		m := harness.Launch(t, harness.Real)
		waitVersions(t, m, "3.7.0", "3.7.0")
		harness.MustStop(t, m)
		old := filepath.Join(t.TempDir(), "db")
		harness.CopyDir(t, harness.DBFile(m.Dir), old)
		harness.MustStart(t, m)
		client := m.Client()
		if _, err := client.RoleAdd(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		// With the second entry after it, the log says that it is committed.
		for range 2 {
			if _, err := client.Put(t.Context(), "a", "1"); err != nil {
				t.Fatal(err)
			}
		}
		client.Close()
		m.Kill()
		// As if it had ended before the database was committed.
		harness.CopyDir(t, old, harness.DBFile(m.Dir))
		untouchedBy(t, m, "authentication request (role add)")
		m.Kind = harness.Real
		harness.MustStart(t, m)
		client = m.Client()
		roles, err := client.RoleList(t.Context())
		client.Close()
		if err != nil || len(roles.Roles) != 1 {
			t.Fatalf("%v %v", roles, err)
		}
		harness.MustStop(t, m)
		m.Kind = harness.Ours
		harness.MustStart(t, m)
		harness.MustStop(t, m)
	})
	t.Run("a key of the v2 API", func(t *testing.T) {
		t.Parallel()
		m := harness.Launch(t, harness.Real35, "--enable-v2")
		form := url.Values{"value": {"old"}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, "PUT", m.ClientURL()+"/v2/keys/mine", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		p, err := http.DefaultClient.Do(request)
		if err != nil || p.StatusCode != http.StatusCreated {
			t.Fatalf("%v %v", p, err)
		}
		p.Body.Close()
		m.Flags = nil
		m.Kill()
		untouchedBy(t, m, "v2 API", "/1/mine")
	})
}

// untouchedBy starts ours, which refuses and touches nothing.
func untouchedBy(t *testing.T, m *harness.Member, words ...string) {
	t.Helper()
	before := tree(t, m.Dir)
	m.Kind = harness.Ours
	refused(t, m, words...)
	if after := tree(t, m.Dir); after != before {
		t.Errorf("touched\n%s", differences(before, after))
	}
}
