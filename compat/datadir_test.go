package compat

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// realTwice says that QUORATE_BIN is real etcd too, to prove the tests themselves; what is asked of
// ours alone is then left out.
func realTwice() bool { return os.Getenv("COMPAT_REAL_TWICE") != "" }

// TestDataDir moves data directories between the two products.
func TestDataDir(t *testing.T) {
	t.Parallel() // mostly waiting, as the others that say so
	for _, first := range []harness.Kind{harness.Real, harness.Ours} {
		for _, mode := range []string{"stop", "kill", "kill with snapshots"} {
			t.Run(fmt.Sprintf("hops from %s, %s", first, mode), func(t *testing.T) {
				t.Parallel()
				hops(t, first, mode)
			})
		}
		t.Run(fmt.Sprintf("log of several segments from %s", first), func(t *testing.T) {
			t.Parallel()
			segments(t, first)
		})
		t.Run(fmt.Sprintf("live directory of %s is locked", first), func(t *testing.T) {
			t.Parallel()
			locked(t, first)
		})
		t.Run(fmt.Sprintf("restored from a snapshot of %s", first), func(t *testing.T) {
			t.Parallel()
			restored(t, first)
		})
		t.Run(fmt.Sprintf("defragmented by etcdutl, from %s", first), func(t *testing.T) {
			t.Parallel()
			defragmented(t, first)
		})
	}
	t.Run("same identities", sameIdentities)
	t.Run("auth is refused", authRefused)
	t.Run("another page size", largePages)
}

// halt ends a member gracefully or by a kill, and reads its directory with etcd's tools.
func halt(t *testing.T, m *harness.Member, kill bool) {
	t.Helper()
	if kill {
		m.Kill()
	} else {
		harness.MustStop(t, m)
	}
	if err := harness.CheckDir(m.Dir); err != nil {
		t.Fatalf("directory left by %s: %v", m.Kind, err)
	}
}

// hops lets the products take turns on one directory.
func hops(t *testing.T, first harness.Kind, mode string) {
	var flags []string
	if strings.Contains(mode, "snapshots") {
		flags = append(flags, "--snapshot-count=40")
	}
	m := harness.Launch(t, first, flags...)
	r := rand.New(rand.NewSource(int64(first) + 1))
	for hop := range 5 {
		disarm(t, m)
		work(t, m, r, 150)
		before := state(t, m)
		halt(t, m, strings.HasPrefix(mode, "kill"))
		if hop != 3 { // once, a product comes back to its own directory
			m.Kind = m.Kind.Other()
		}
		harness.MustStart(t, m)
		if after := state(t, m); after != before {
			t.Fatalf("hop %d, now on %s: the data differ\n%s", hop, m.Kind, differences(before, after))
		}
	}
	halt(t, m, false)
}

// differences shows only the lines in which two states differ.
func differences(before, after string) string {
	var out strings.Builder
	left, right := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i := range max(len(left), len(right)) {
		var l, r string
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		if l != r {
			fmt.Fprintf(&out, "before: %s\nafter:  %s\n", l, r)
		}
		if out.Len() > 4000 {
			break
		}
	}
	return out.String()
}

// segments fills more than one 64 MB segment of the log.
func segments(t *testing.T, first harness.Kind) {
	m := harness.Launch(t, first, "--snapshot-count=30")
	client := m.Client()
	defer client.Close()
	value := strings.Repeat("v", 1_400_000)
	for i := range 100 {
		if _, err := client.Put(t.Context(), fmt.Sprint("k", i%7), value); err != nil {
			t.Fatal(err)
		}
	}
	before := state(t, m)
	halt(t, m, true)
	files, err := filepath.Glob(filepath.Join(harness.WALDir(m.Dir), "*.wal"))
	if err != nil || len(files) < 2 {
		t.Errorf("%s left %d segments (%v)", first, len(files), err)
	}
	for range 2 {
		m.Kind = m.Kind.Other()
		harness.MustStart(t, m)
		if after := state(t, m); after != before {
			t.Fatalf("now on %s: the data differ\n%s", m.Kind, differences(before, after))
		}
		halt(t, m, false)
	}
}

// locked starts the other product on a directory that is in use.
func locked(t *testing.T, first harness.Kind) {
	m := harness.Launch(t, first)
	client := m.Client()
	defer client.Close()
	put := func(key string) {
		t.Helper()
		if _, err := client.Put(t.Context(), key, "v"); err != nil {
			t.Fatal(err)
		}
	}
	put("before")
	for _, kind := range []harness.Kind{harness.Ours, harness.Real} {
		second := harness.NewMember(kind, t.TempDir())
		second.Dir = m.Dir
		t.Cleanup(second.Kill)
		if err := second.Spawn(); err != nil {
			t.Fatal(err)
		}
		if err := second.WaitReady(1500 * time.Millisecond); err == nil {
			t.Fatalf("%s serves from the live directory of %s", kind, first)
		}
		if kind == harness.Ours && !realTwice() {
			refusal(t, second, "lock")
		}
		second.Kill()
		put("during")
	}
	before := state(t, m)
	m.Kill()
	harness.MustStart(t, m)
	if after := state(t, m); before != after {
		t.Fatalf("the attempt changed the data\n%s", differences(before, after))
	}
}

// restored starts both products on what `etcdutl snapshot restore` makes of a snapshot.
func restored(t *testing.T, first harness.Kind) {
	m := harness.Launch(t, first)
	work(t, m, rand.New(rand.NewSource(3)), 150)
	disarm(t, m)
	c := &C{M: m, Ctx: t.Context()}
	c.Text = strings.NewReplacer()
	conn, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	c.Maint = pb.NewMaintenanceClient(conn)
	file := filepath.Join(t.TempDir(), "file.db")
	if err := os.WriteFile(file, c.snapshot(), 0o600); err != nil {
		t.Fatal(err)
	}
	halt(t, m, false)
	for _, more := range [][]string{nil, {"--bump-revision=1000", "--mark-compacted"}} {
		for range 2 {
			if err := os.RemoveAll(m.Dir); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"snapshot", "restore", file, "--data-dir", m.Dir, "--name", "m1",
				"--initial-cluster", "m1=" + m.PeerURL(), "--initial-advertise-peer-urls", m.PeerURL()},
				more...)
			if out, err := harness.Etcdutl(args...); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			harness.MustStart(t, m)
			before := state(t, m)
			halt(t, m, false)
			m.Kind = m.Kind.Other()
			harness.MustStart(t, m)
			if after := state(t, m); before != after {
				t.Fatalf("now on %s: the data differ\n%s", m.Kind, differences(before, after))
			}
			halt(t, m, true)
		}
	}
}

// defragmented rewrites the database by `etcdutl defrag`, which uses bbolt's own writer.
func defragmented(t *testing.T, first harness.Kind) {
	m := harness.Launch(t, first)
	work(t, m, rand.New(rand.NewSource(4)), 200)
	before := state(t, m)
	halt(t, m, false)
	for range 2 {
		if _, err := harness.Etcdutl("defrag", "--data-dir", m.Dir); err != nil {
			t.Fatal(err)
		}
		m.Kind = m.Kind.Other()
		harness.MustStart(t, m)
		if after := state(t, m); after != before {
			t.Fatalf("now on %s: the data differ\n%s", m.Kind, differences(before, after))
		}
		halt(t, m, false)
	}
}

// sameIdentities: a new member computes the ids that etcd computes from the same flags.
func sameIdentities(t *testing.T) {
	m := harness.Prepare(t, harness.Real, "--initial-cluster-token=some-token")
	var seen [2]string
	for kind := range seen {
		m.Kind = harness.Kind(kind)
		harness.MustStart(t, m)
		client := m.Client()
		p, err := client.MemberList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s, err := client.Status(t.Context(), m.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		client.Close()
		seen[kind] = fmt.Sprintf("cluster %x, members %v, term %d, index %d, revision %d, storage %s",
			p.Header.ClusterId, p.Members, s.RaftTerm, s.RaftIndex, s.Header.Revision, s.StorageVersion)
		halt(t, m, false)
		if err := os.RemoveAll(m.Dir); err != nil {
			t.Fatal(err)
		}
	}
	if seen[0] != seen[1] {
		t.Errorf("fresh members differ\n%s", sideBySide(seen[0], seen[1]))
	}
}

// authRefused: ours does not serve a directory in which authentication is enabled.
func authRefused(t *testing.T) {
	if realTwice() {
		t.Skip("both sides are real etcd, which serves it")
	}
	m := harness.Launch(t, harness.Real)
	client := m.Client()
	_, err := client.UserAdd(t.Context(), "root", "secret")
	if err == nil {
		_, err = client.RoleAdd(t.Context(), "root")
	}
	if err == nil {
		_, err = client.UserGrantRole(t.Context(), "root", "root")
	}
	if err == nil {
		_, err = client.AuthEnable(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	for _, kill := range []bool{false, true} {
		halt(t, m, kill)
		m.Kind = harness.Ours
		if err := m.Spawn(); err != nil {
			t.Fatal(err)
		}
		refusal(t, m, "auth")
		m.Kind = harness.Real
		if err := m.Spawn(); err != nil {
			t.Fatal(err)
		}
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Endpoint()},
			Username: "root", Password: "secret", DialTimeout: 20 * time.Second})
		if err != nil {
			t.Fatalf("etcd no longer serves it: %v\n%s", err, m.LogTail(20))
		}
		if _, err := client.Put(t.Context(), "a", "1"); err != nil {
			t.Fatal(err)
		}
		client.Close()
	}
	m.Kill()
}

// largePages: the page size is a property of the file.
func largePages(t *testing.T) {
	m := harness.Launch(t, harness.Real)
	work(t, m, rand.New(rand.NewSource(5)), 200)
	before := state(t, m)
	halt(t, m, false)
	if err := harness.Repage(harness.DBFile(m.Dir), 16384); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m.Kind = m.Kind.Other()
		harness.MustStart(t, m)
		if after := state(t, m); after != before {
			t.Fatalf("now on %s: the data differ\n%s", m.Kind, differences(before, after))
		}
		halt(t, m, false)
	}
}

// refusal waits until a member has ended by itself, and looks at how it said why: not by a panic, with
// a failing exit code, and with one line that holds all words.
func refusal(t *testing.T, m *harness.Member, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	select {
	case <-m.Exited():
	case <-ctx.Done():
		t.Fatalf("%s still runs\n%s", m.Kind, m.LogTail(20))
	}
	var kept []string
	for _, line := range splitLines(m.LastLog()) {
		if !strings.Contains(line, `"level":"info"`) {
			kept = append(kept, line)
		}
	}
	log := joinLines(kept)
	if m.ExitCode() <= 0 {
		t.Errorf("ended with %s\n%s", m.ExitText(), log)
	}
	for _, sign := range []string{"panicked at", "RUST_BACKTRACE", "stack backtrace", "goroutine "} {
		if strings.Contains(log, sign) {
			t.Errorf("a panic instead of a line\n%s", log)
			return
		}
	}
	for _, line := range strings.Split(log, "\n") {
		found := len(line) > 0
		for _, word := range words {
			found = found && bytes.Contains(bytes.ToLower([]byte(line)), []byte(strings.ToLower(word)))
		}
		if found {
			if testing.Verbose() {
				t.Logf("said: %s", line)
			}
			return
		}
	}
	t.Errorf("no line with %q\n%s", words, log)
}
