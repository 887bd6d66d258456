package compat

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// ctlTools are the two tools, by name.
func ctlTools(t *testing.T) (map[string][]string, []string) {
	t.Helper()
	tools := ownTools(t)
	return map[string][]string{"etcdctl": {tools.Etcdctl}, "quorate ctl": {tools.Ours, "ctl"}},
		[]string{"etcdctl", "quorate ctl"}
}

// held is a tool under way.
type held struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  chan string
	stderr bytes.Buffer
	ended  chan struct{}
}

func startTool(t *testing.T, tool []string, m *harness.Member, args ...string) *held {
	t.Helper()
	args = append(append(slices.Clone(tool[1:]), "--endpoints="+m.Endpoint()), args...)
	h := &held{t: t, cmd: exec.Command(tool[0], args...), lines: make(chan string, 1000), ended: make(chan struct{})}
	h.cmd.Env = harness.CleanEnv()
	h.cmd.Stderr = &h.stderr
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for scan := bufio.NewScanner(out); scan.Scan(); {
			h.lines <- scan.Text()
		}
		close(h.lines)
		_ = h.cmd.Wait()
		close(h.ended)
	}()
	t.Cleanup(h.kill)
	return h
}

func (h *held) kill() {
	_ = h.cmd.Process.Kill()
	<-h.ended
}

// line is the next line that it prints.
func (h *held) line() string {
	h.t.Helper()
	select {
	case line, ok := <-h.lines:
		if !ok {
			<-h.ended
			h.t.Fatalf("%v ended: %s", h.cmd.Args, h.stderr.String())
		}
		return line
	case <-time.After(20 * time.Second):
		h.t.Fatalf("%v prints nothing", h.cmd.Args)
		return ""
	}
}

// quiet demands that it has printed nothing.
func (h *held) quiet() {
	h.t.Helper()
	select {
	case line, ok := <-h.lines:
		h.t.Fatalf("%v printed %q (%v) before its turn", h.cmd.Args, line, ok)
	default:
	}
}

// stop sends a signal and returns the exit code and what stderr says beside log lines.
func (h *held) stop(signal syscall.Signal) (int, string) {
	h.t.Helper()
	_ = h.cmd.Process.Signal(signal)
	return h.wait()
}

func (h *held) wait() (int, string) {
	h.t.Helper()
	select {
	case <-h.ended:
	case <-time.After(20 * time.Second):
		h.t.Fatalf("%v does not end", h.cmd.Args)
	}
	var kept []string
	for _, line := range splitLines(h.stderr.String()) {
		if line != "" && !strings.HasPrefix(line, `{"level":`) {
			kept = append(kept, line)
		}
	}
	return h.cmd.ProcessState.ExitCode(), strings.Join(kept, "\n")
}

// waitFor asks until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("not so within 30 s: %s", what)
}

// count is how many keys a prefix has.
func count(client *clientv3.Client, prefix string) int64 {
	p, err := client.Get(context.Background(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return -1
	}
	return p.Count
}

// TestCtlLocks lets both tools stand in one line for a lock, and for a leadership.
func TestCtlLocks(t *testing.T) {
	tools, names := ctlTools(t)
	for k, m := range launchPair(t) {
		kind := harness.Kind(k)
		client := m.Client()
		t.Cleanup(func() { _ = client.Close() })
		for _, pair := range [][2]string{{names[0], names[1]}, {names[1], names[0]}} {
			t.Run(fmt.Sprintf("%s/%s before %s", kind, pair[0], pair[1]), func(t *testing.T) {
				t.Parallel()
				name := "first " + pair[0]
				lockLine(t, m, client, tools[pair[0]], tools[pair[1]], name)
				electionLine(t, m, client, tools[pair[0]], tools[pair[1]], name+" candidate")
			})
		}
		t.Run(kind.String()+"/crowd", func(t *testing.T) { lockCrowd(t, m, tools, names) })
	}
}

func lockLine(t *testing.T, m *harness.Member, client *clientv3.Client, first, second []string, l string) {
	holder := startTool(t, first, m, "lock", l, "--ttl", "2")
	key := holder.line()
	if !strings.HasPrefix(key, l+"/") || holder.line() != "" {
		t.Fatalf("the holder prints %q", key)
	}
	waiter := startTool(t, second, m, "lock", l, "--ttl", "2")
	gone := startTool(t, second, m, "lock", l, "--ttl", "2")
	eventually(t, "three in line", func() bool { return count(client, l+"/") == 3 })
	if code, said := gone.stop(syscall.SIGINT); code != 1 || said != "Error: context canceled" {
		t.Errorf("an interrupted waiter: exit %d, %s", code, said)
	}
	eventually(t, "two in line", func() bool { return count(client, l+"/") == 2 })
	waiter.quiet()
	if code, said := holder.stop(syscall.SIGTERM); code != 0 || said != "" {
		t.Errorf("the holder: exit %d, %s", code, said)
	}
	key = waiter.line()
	if p, err := client.Get(t.Context(), key); err != nil || len(p.Kvs) != 1 {
		t.Fatalf("the lock's key %q: %v %v", key, p, err)
	} else if _, err := client.Revoke(t.Context(), clientv3.LeaseID(p.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	if code, said := waiter.wait(); code != 1 || said != "Error: session expired" {
		t.Errorf("a holder without a lease: exit %d, %s", code, said)
	}
	if n := count(client, l+"/"); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

func electionLine(t *testing.T, m *harness.Member, client *clientv3.Client, first, second []string, e string) {
	observers := []*held{startTool(t, first, m, "elect", "-l", e), startTool(t, second, m, "elect", "-l", e)}
	leader := startTool(t, first, m, "elect", e, "one")
	leader.line()
	if proposal := leader.line(); proposal != "one" {
		t.Fatalf("the leader prints %q", proposal)
	}
	next := startTool(t, second, m, "elect", e, "two")
	gone := startTool(t, second, m, "elect", e, "three")
	eventually(t, "three in line", func() bool { return count(client, e+"/") == 3 })
	if code, said := gone.stop(syscall.SIGTERM); code != 1 || said != "Error: context canceled" {
		t.Errorf("an interrupted candidate: exit %d, %s", code, said)
	}
	next.quiet()
	for _, o := range observers {
		if o.line(); o.line() != "one" {
			t.Error("an observer does not see the leader")
		}
	}
	if code, said := leader.stop(syscall.SIGINT); code != 0 || said != "" {
		t.Errorf("the leader: exit %d, %s", code, said)
	}
	key := next.line()
	for _, o := range observers {
		if seen := o.line(); seen != key || o.line() != "two" {
			t.Errorf("an observer sees %q, and not %q", seen, key)
		}
	}
	// A leader may say something else; observers see that, too.
	p, err := client.Get(t.Context(), key)
	if err != nil || len(p.Kvs) != 1 {
		t.Fatal(p, err)
	}
	lease := clientv3.LeaseID(p.Kvs[0].Lease)
	if _, err := client.Put(t.Context(), key, "other", clientv3.WithLease(lease)); err != nil {
		t.Fatal(err)
	}
	for _, o := range observers {
		if o.line(); o.line() != "other" {
			t.Error("an observer does not see the new proposal")
		}
		if code, said := o.stop(syscall.SIGINT); code != 0 || said != "" {
			t.Errorf("an observer: exit %d, %s", code, said)
		}
	}
	if code, said := next.stop(syscall.SIGTERM); code != 0 || said != "" {
		t.Errorf("the next leader: exit %d, %s", code, said)
	}
	if n := count(client, e+"/"); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

// lockCrowd: commands under one lock do not overlap, whoever runs them.
func lockCrowd(t *testing.T, m *harness.Member, tools map[string][]string, names []string) {
	file := filepath.Join(t.TempDir(), "log")
	const each = 4
	var crowd []*held
	for i := range each * len(names) {
		script := fmt.Sprintf("echo in %d $ETCD_LOCK_REV >>%s; sleep 0.05; echo out %d >>%s; exit 7", i, file, i, file)
		crowd = append(crowd, startTool(t, tools[names[i%len(names)]], m, "lock", "crowd", "--", "sh", "-c", script))
	}
	for _, h := range crowd {
		if code, said := h.wait(); code != 7 || said != "Error: exit status 7" {
			t.Errorf("%v: exit %d, %s", h.cmd.Args, code, said)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	for at := 0; at < len(lines); at += 5 {
		if lines[at] != "in" || lines[at+3] != "out" || lines[at+1] != lines[at+4] {
			t.Fatalf("commands overlap:\n%s", text)
		}
	}
	if len(lines) != 5*len(crowd) {
		t.Errorf("%d words of %d commands:\n%s", len(lines), len(crowd), text)
	}
}

// pairsUnder reads a prefix, without it.
func pairsUnder(client *clientv3.Client, prefix string) (map[string]string, error) {
	p, err := client.Get(context.Background(), prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, kv := range p.Kvs {
		found[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	return found, nil
}

// TestCtlMirror: what the source does while a mirror is away reaches the destination, too, and
// nothing beside the mirror is touched.
func TestCtlMirror(t *testing.T) {
	fromEach(t, mirrorRestarts)
}

// fromEach mirrors by `quorate ctl` from etcd to quorate, and from quorate to etcd.
func fromEach(t *testing.T, test func(t *testing.T, ours []string, source, dest *harness.Member, a, b *clientv3.Client)) {
	t.Helper()
	tools, _ := ctlTools(t)
	for _, from := range []harness.Kind{harness.Real, harness.Ours} {
		t.Run("from "+from.String(), func(t *testing.T) {
			t.Parallel()
			source, dest := harness.Launch(t, from), harness.Launch(t, 1-from)
			a, b := source.Client(), dest.Client()
			defer a.Close()
			defer b.Close()
			test(t, tools["quorate ctl"], source, dest, a, b)
		})
	}
}

func mirrorRestarts(t *testing.T, ours []string, source, dest *harness.Member, a, b *clientv3.Client) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(key, value string) {
		t.Helper()
		_, err := a.Put(t.Context(), key, value)
		must(err)
	}
	remove := func(key string) { t.Helper(); _, err := a.Delete(t.Context(), key, clientv3.WithPrefix()); must(err) }
	for i := range 300 {
		put(fmt.Sprintf("a/%03d", i), strings.Repeat("x", i))
	}
	put("a", "not under the prefix")
	put("b/x", "nor this")
	for _, key := range []string{"m", "m.", "m0", "n", "k"} { // around the range m/ to m0
		_, err := b.Put(t.Context(), key, "own")
		must(err)
	}
	_, err := b.Put(t.Context(), "m/stale", "left by an earlier mirror")
	must(err)
	args := []string{"make-mirror", dest.Endpoint(), "--prefix", "a/", "--dest-prefix", "m/"}
	// What shares no key with the source is somebody's data.
	refused := startTool(t, ours, source, args...)
	<-refused.ended
	if n, code := count(b, "m/"), refused.cmd.ProcessState.ExitCode(); code != 1 || n != 1 ||
		!strings.Contains(refused.stderr.String(), "Error: the destination has keys where the mirror would be") {
		t.Fatalf("a destination with foreign keys: code %d, %d keys\n%s", code, n, refused.stderr.String())
	}
	_, err = b.Put(t.Context(), "m/299", "left by an earlier mirror, too")
	must(err)
	equal := func(what string) {
		t.Helper()
		want, err := pairsUnder(a, "a/")
		must(err)
		var found map[string]string
		defer func() {
			if t.Failed() {
				t.Logf("%d keys there, %d here", len(found), len(want))
			}
		}()
		eventually(t, what+": the mirror equals", func() bool {
			found, err = pairsUnder(b, "m/")
			return err == nil && fmt.Sprint(found) == fmt.Sprint(want)
		})
		if n := count(b, ""); n != int64(len(want)+5) {
			t.Fatalf("%s: %d keys at the destination, and %d in the source", what, n, len(want))
		}
	}
	mirror := startTool(t, ours, source, args...)
	equal("at first")
	put("a/new", "1")
	remove("a/00")
	_, err = a.Txn(t.Context()).Then(clientv3.OpPut("a/t1", "1"), clientv3.OpPut("a/t2", "2"), clientv3.OpDelete("a/050")).Commit()
	must(err)
	equal("changes under way")

	mirror.kill()
	remove("a/01")
	put("a/020", "while it was away")
	mirror = startTool(t, ours, source, args...)
	equal("killed and restarted")

	// The watch has nothing to go on from.
	mirror.kill()
	remove("a/02")
	put("a/030", "before the compaction")
	p, err := a.Get(t.Context(), "a/")
	must(err)
	_, err = a.Compact(t.Context(), p.Header.Revision, clientv3.WithCompactPhysical())
	must(err)
	mirror = startTool(t, ours, source, append(slices.Clone(args), "--max-txn-ops", "3")...)
	equal("compacted meanwhile")

	// The same mirror outlives both sides, the source with a compaction.
	harness.MustStop(t, dest)
	remove("a/03")
	for i := range 50 {
		put(fmt.Sprintf("a/s%02d", i), "s")
	}
	harness.MustStart(t, dest)
	equal("the destination was away")
	// More than a stream holds, so that the mirror misses some of it.
	must(mirror.cmd.Process.Signal(syscall.SIGSTOP))
	for i := range 30 {
		put(fmt.Sprintf("a/l%02d", i), strings.Repeat("l", 300_000))
	}
	put("a/again", "1")
	remove("a/04")
	p, err = a.Get(t.Context(), "a/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	must(err)
	_, err = a.Compact(t.Context(), p.Header.Revision, clientv3.WithCompactPhysical())
	must(err)
	source.Kill()
	harness.MustStart(t, source)
	must(mirror.cmd.Process.Signal(syscall.SIGCONT))
	equal("the source was away")
	if !mirrorRuns(mirror) {
		t.Errorf("the mirror ended: %s", mirror.stderr.String())
	}
	mirror.kill()
	if !strings.Contains(mirror.stderr.String(), "copying again") {
		t.Errorf("the mirror did not notice the compaction: %s", mirror.stderr.String())
	}

	// Into itself it does not go.
	self := startTool(t, ours, source, "make-mirror", source.Endpoint(), "--prefix", "a/")
	if code, said := self.wait(); code != 128 || !strings.Contains(said, "the destination is the source itself") {
		t.Errorf("a mirror into itself: exit %d, %s", code, said)
	}
	// A part of the source at the root of the destination: others live there.
	root := startTool(t, ours, source, "make-mirror", dest.Endpoint(), "--prefix", "a/", "--no-dest-prefix")
	eventually(t, "keys at the root", func() bool { p, err := b.Get(t.Context(), "again"); return err == nil && len(p.Kvs) == 1 })
	root.kill()
	if n := count(b, "m/"); n == 0 {
		t.Error("keys beside the mirror were removed")
	}
}

func mirrorRuns(h *held) bool {
	select {
	case <-h.ended:
		return false
	default:
		return true
	}
}

// cutter passes connections on, the first of them only for some bytes.
func cutter(t *testing.T, to string, bytes int64, cuts int32) (string, *atomic.Int32) {
	t.Helper()
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var opened atomic.Int32
	var all sync.WaitGroup
	t.Cleanup(func() { _ = door.Close(); all.Wait() })
	all.Go(func() {
		for {
			near, err := door.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			isCut := opened.Add(1) <= cuts
			all.Go(func() { _, _ = io.Copy(far, near); _ = far.Close() })
			all.Go(func() {
				if isCut {
					_, _ = io.CopyN(near, far, bytes)
				} else {
					_, _ = io.Copy(near, far)
				}
				_ = near.Close()
				_ = far.Close()
			})
		}
	})
	return door.Addr().String(), &opened
}

// TestCtlSnapshotSave: a stream that breaks is begun again, not for ever, and never taken for whole.
func TestCtlSnapshotSave(t *testing.T) {
	tools, _ := ctlTools(t)
	ours := tools["quorate ctl"]
	for k, m := range launchPair(t) {
		t.Run(harness.Kind(k).String(), func(t *testing.T) {
			t.Parallel()
			client := m.Client()
			defer client.Close()
			for i := range 20 {
				if _, err := client.Put(t.Context(), fmt.Sprint(i), strings.Repeat("x", 100_000)); err != nil {
					t.Fatal(err)
				}
			}
			dir := t.TempDir()
			save := func(endpoint, file string) (int, string, string) {
				cmd := exec.Command(ours[0], append(slices.Clone(ours[1:]), "--endpoints", endpoint, "snapshot", "save", file)...)
				cmd.Env = harness.CleanEnv()
				var out, errs bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &errs
				_ = cmd.Run()
				return cmd.ProcessState.ExitCode(), out.String(), errs.String()
			}
			file := filepath.Join(dir, "s.db")
			// What an earlier attempt left is no part of this one.
			if err := os.WriteFile(file+".part", bytes.Repeat([]byte("old"), 10_000_000), 0o600); err != nil {
				t.Fatal(err)
			}
			endpoint, opened := cutter(t, m.Endpoint(), 500_000, 2)
			code, out, errs := save(endpoint, file)
			if code != 0 || !strings.HasPrefix(out, "Snapshot saved at "+file+"\n") || strings.ContainsRune(out+errs, '\x1b') {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			if opened.Load() < 3 || !strings.Contains(errs, "beginning again") {
				t.Errorf("%d connections\n%s", opened.Load(), errs)
			}
			if out, err := harness.Etcdutl("snapshot", "status", file); err != nil {
				t.Errorf("etcdutl does not like it: %s %v", out, err)
			}
			endpoint, opened = cutter(t, m.Endpoint(), 500_000, 1000)
			file = filepath.Join(dir, "never.db")
			code, out, errs = save(endpoint, file)
			if code != 5 || out != "" || !strings.Contains(errs, "Error: could not write snapshot: ") || opened.Load() < 5 {
				t.Errorf("exit %d, %d connections\n%s%s", code, opened.Load(), out, errs)
			}
			disk := smallDisk(t, 1)
			full := filepath.Join(disk, "full.db")
			code, out, errs = save(m.Endpoint(), full)
			last := errs[strings.LastIndexByte(strings.TrimSpace(errs), '\n')+1:]
			if want := "Error: could not write snapshot: write " + full + ".part: no space left on device\n"; code != 5 || out != "" || last != want {
				t.Errorf("a full disk: exit %d\n%s%s", code, out, errs)
			}
			for _, name := range []string{file, file + ".part", full, full + ".part"} {
				if _, err := os.Stat(name); !os.IsNotExist(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// numbers differ from run to run.
var numbers = regexp.MustCompile(`(revision|used :) -?[0-9.]+`)

// TestCtlDatascale runs the smallest check of memory, by both tools.
func TestCtlDatascale(t *testing.T) {
	tools, names := ctlTools(t)
	m := harness.Launch(t, harness.Real)
	client := m.Client()
	defer client.Close()
	s := newShell(t, m)
	var outputs []string
	for _, name := range names {
		args := append(slices.Clone(tools[name][1:]), "--endpoints", m.Endpoint(), "check", "datascale", "--auto-compact", "--auto-defrag")
		cmd := exec.Command(tools[name][0], args...)
		cmd.Env = harness.CleanEnv()
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s%s", name, err, out.String(), errs.String())
		}
		bar := errs.String()
		if !strings.HasSuffix(bar, "] 100.00% "+bar[strings.LastIndex(bar, "% ")+2:]) || strings.ContainsAny(bar, "\r\n\x1b") {
			t.Errorf("%s draws %q", name, bar)
		}
		outputs = append(outputs, s.mask(numbers.ReplaceAllString(out.String(), "$1 N")))
	}
	if outputs[0] != outputs[1] {
		t.Errorf("etcdctl prints\n%squorate ctl prints\n%s", outputs[0], outputs[1])
	}
	if n := count(client, ""); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}
