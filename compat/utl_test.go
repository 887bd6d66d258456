package compat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// utl is a tool and the directory in which it runs.
type utl struct {
	tool []string
	dir  string
}

// run runs the tool and returns what a user would see.
func (u utl) run(args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.tool[0], append(slices.Clone(u.tool[1:]), args...)...)
	cmd.Dir, cmd.Env = u.dir, harness.CleanEnv()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); ctx.Err() != nil {
		return out.String(), fmt.Sprintf("%s\ndid not end: %v\n", errs.String(), err), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

var (
	logHead    = regexp.MustCompile(`^[0-9T:+Z-]+\t(info|warn|error)\t`)
	logPlace   = regexp.MustCompile(`^[^\t]*\t`)
	stackFrame = regexp.MustCompile(`^(\t|[a-z0-9./_*()-]+\.[A-Za-z0-9_.()*-]+$)`)
	took       = regexp.MustCompile(`"took": "[^"]*"`)
	logSize    = regexp.MustCompile(`("current-db-size[a-z-]*"): ("[^"]*"|-?[0-9]+)`)
	sizes      = regexp.MustCompile(`[0-9.]+ [kM]?B\b|"totalSize":[0-9]+|"Size" : [0-9]+`)
)

// maskLog leaves out what a log line says of the moment and the program, the lines of bbolt, and
// the stacks that etcdutl prints below an error.
func maskLog(text string) string {
	var kept []string
	stack := false
	for _, line := range splitLines(text) {
		if level := logHead.FindStringSubmatch(line); level != nil {
			rest := line[len(level[0]):]
			stack = level[1] == "error"
			if !strings.HasPrefix(rest, "bbolt\t") {
				kept = append(kept, level[1]+" "+logPlace.ReplaceAllString(rest, ""))
			}
			continue
		}
		if stack && stackFrame.MatchString(line) {
			continue
		}
		stack = false
		kept = append(kept, line)
	}
	return took.ReplaceAllString(joinLines(kept), "took")
}

// see runs one line of the corpus.
func (u utl) see(c command) string {
	args := c.args
	masked := len(args) > 0 && args[0] == "@sizes"
	if masked {
		args = args[1:]
	}
	stdout, stderr, code := u.run(args...)
	text := fmt.Sprintf("%s%sexit %d\n", stdout, mark(maskLog(stderr)), code)
	if masked {
		text = sizes.ReplaceAllString(logSize.ReplaceAllString(text, "$1: N"), "SIZE")
		text = regexp.MustCompile(`[ ─]+`).ReplaceAllString(text, " ")
	}
	return text
}

// fillHistory makes a database with leases, tombstones and a compaction, whose rows are the same on both
// products.
func fillHistory(t *testing.T, m *harness.Member) {
	t.Helper()
	client := m.Client()
	defer client.Close()
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for id := range 3 {
		_, err := client.Lease.Grant(ctx, 3000)
		check(err)
		_, err = client.Put(ctx, fmt.Sprint("leased", id), "x")
		check(err)
	}
	for n := range 40 {
		_, err := client.Put(ctx, fmt.Sprint("key", n%7), strings.Repeat("v", n*50))
		check(err)
		if n%9 == 4 {
			_, err := client.Delete(ctx, fmt.Sprint("key", n%7))
			check(err)
		}
	}
	_, err := client.Put(ctx, "big", strings.Repeat("b", 100_000))
	check(err)
	_, err = client.Compact(ctx, 30, clientv3.WithCompactPhysical())
	check(err)
	_, err = client.Delete(ctx, "key0")
	check(err)
	_, err = client.Txn(ctx).Then(clientv3.OpPut("\x00\xff", ""), clientv3.OpPut("<html>", "&")).Commit()
	check(err)
}

// copyAll copies files and directories, holes as holes.
func copyAll(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// utlSource fills a member and saves its snapshot; the member has stopped.
func utlSource(t *testing.T, kind harness.Kind, file string) (*harness.Member, *pb.HashKVResponse) {
	t.Helper()
	m := harness.Launch(t, kind)
	fillHistory(t, m)
	if out, err := m.Etcdctl("snapshot", "save", file); err != nil {
		t.Fatal(err, out)
	}
	hash := hashAt(t, m, 0)
	harness.MustStop(t, m)
	return m, hash
}

// hashAt asks a member for the hash of its keys.
func hashAt(t *testing.T, m *harness.Member, revision int64) *pb.HashKVResponse {
	t.Helper()
	client := m.Client()
	defer client.Close()
	hash, err := client.HashKV(t.Context(), m.Endpoint(), revision)
	if err != nil {
		t.Fatal(err)
	}
	return (*pb.HashKVResponse)(hash)
}

// utlInputs makes the files that testdata/utl.txt speaks of.
func utlInputs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		name := map[harness.Kind]string{harness.Real: "etcd", harness.Ours: "ours"}[kind]
		m, _ := utlSource(t, kind, filepath.Join(dir, name+".db"))
		copyAll(t, m.Dir, filepath.Join(dir, name))
		copyAll(t, filepath.Join(dir, name+".db"), filepath.Join(dir, "hash-"+name+".db"))
	}
	whole, err := os.ReadFile(filepath.Join(dir, "etcd.db"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 0x10
	write("flipped.db", flipped)
	write("cut.db", whole[:len(whole)-512])
	write("empty.db", nil)
	write("text.db", bytes.Repeat([]byte("text\n"), 5000))
	return dir
}

// TestUtl runs one corpus with the real etcdutl and with `quorate utl`, on equal files.
func TestUtl(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	inputs := utlInputs(t)
	both := []utl{{tool: []string{tools.Etcdutl}}, {tool: []string{tools.Ours, "utl"}}}
	for i := range both {
		both[i].dir = filepath.Join(t.TempDir(), "files")
		copyAll(t, inputs, both[i].dir)
	}
	lines := parseCorpus(t, filepath.Join("testdata", "utl.txt"))
	var seen [2][]string
	done := make(chan int)
	for i, u := range both {
		go func() {
			for _, c := range append(slices.Clone(lines), command{text: "(nothing)"}) {
				seen[i] = append(seen[i], u.see(c))
			}
			done <- i
		}()
	}
	<-done
	<-done
	for i, c := range append(slices.Clone(lines), command{text: "(nothing)"}) {
		if seen[0][i] != seen[1][i] {
			t.Errorf("utl.txt:%d: %s\netcdutl:\n%squorate utl:\n%s", c.line, c.text, seen[0][i], seen[1][i])
		}
	}
	sameHelp(t, both, lines)
	sameFiles(t, both)
	if !t.Failed() {
		t.Logf("evidence: %d lines print the same by etcdutl and by quorate utl, and leave the same", len(lines)+1)
	}
}

// sameHelp compares the help of every command, and demands that the corpus has every command with
// every flag.
func sameHelp(t *testing.T, both []utl, lines []command) {
	t.Helper()
	ask := func(args ...string) string { out, _, _ := both[0].run(args...); return out }
	walkHelp(ask, nil, func(path []string, theirs string, flags []string) {
		ours, _, _ := both[1].run(append(slices.Clone(path), "--help")...)
		if len(path) == 2 && path[1] == "restore" {
			// Ours says more in front: when to bump revisions.
			advice, usage, found := strings.Cut(ours, "\n\nUsage:\n")
			if !found || !strings.Contains(advice, "--bump-revision") || !strings.Contains(advice, "Kubernetes") {
				t.Errorf("no advice in the help of restore:\n%s", ours)
			}
			ours = "Usage:\n" + usage
		}
		if theirs != ours {
			t.Errorf("%v --help\netcdutl:\n%squorate utl:\n%s", path, theirs, ours)
		}
		for _, flag := range flags {
			if !covered(lines, path, flag) {
				t.Errorf("no line of the corpus calls %v with %s", path, flag)
			}
		}
		if !covered(lines, path, "") {
			t.Errorf("no line of the corpus calls %v", path)
		}
	})
}

// walkHelp visits a command and all below it with its help and its own flags, as --help tells them.
func walkHelp(ask func(args ...string) string, path []string, visit func(path []string, help string, flags []string)) {
	help := ask(append(slices.Clone(path), "--help")...)
	var below, flags []string
	part := ""
	for _, line := range splitLines(help) {
		switch {
		case line != "" && line[0] != ' ':
			part = strings.ToLower(strings.TrimSuffix(line, ":"))
		case strings.HasSuffix(part, "commands") && strings.HasPrefix(line, "  "):
			if name := strings.Fields(line)[0]; name != "help" {
				below = append(below, name)
			}
		case part == "flags" && strings.Contains(line, "--"):
			if flag := regexp.MustCompile(`--[a-z-]+`).FindString(line); flag != "--help" {
				flags = append(flags, flag)
			}
		}
	}
	visit(path, help, flags)
	for _, name := range below {
		walkHelp(ask, append(slices.Clone(path), name), visit)
	}
}

// covered tells whether a line calls the command with the flag.
func covered(lines []command, path []string, flag string) bool {
	return slices.ContainsFunc(lines, func(c command) bool {
		args := c.args
		if args[0] == "@sizes" {
			args = args[1:]
		}
		if len(args) < len(path) || !slices.Equal(args[:len(path)], path) {
			return false
		}
		return flag == "" || slices.ContainsFunc(args, func(arg string) bool {
			name, _, _ := strings.Cut(arg, "=")
			return name == flag
		})
	})
}

// sameFiles compares what the tools have left: the same files, equal logs, and equal rows in all
// databases. What a failed restore of etcdutl leaves is not in ours.
func sameFiles(t *testing.T, both []utl) {
	t.Helper()
	var listed [2][]string
	for i, u := range both {
		err := filepath.WalkDir(u.dir, func(path string, entry os.DirEntry, err error) error {
			name, _ := filepath.Rel(u.dir, path)
			if err == nil && !entry.IsDir() && !strings.HasPrefix(name, "no") {
				listed[i] = append(listed[i], name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		sort.Strings(listed[i])
	}
	if !slices.Equal(listed[0], listed[1]) {
		t.Errorf("files of etcdutl:\n%v\nof quorate utl:\n%v", listed[0], listed[1])
	}
	if left, _ := filepath.Glob(filepath.Join(both[1].dir, "no[0-9]*")); left != nil {
		t.Errorf("failed restores left %v", left)
	}
	databases, logs := 0, 0
	for _, name := range listed[0] {
		theirs, ours := filepath.Join(both[0].dir, name), filepath.Join(both[1].dir, name)
		switch {
		case strings.HasPrefix(name, "bumped") && strings.HasSuffix(name, "snap/db"):
			// etcdutl hashkv has begun the compaction that is scheduled in it. The corpus has
			// compared the rows before that.
		case strings.HasSuffix(name, "snap/db"):
			databases++
			if err := harness.CheckDB(ours); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			a, err := harness.Etcdutl("snapshot", "status", theirs, "-w", "json")
			b, err2 := harness.Etcdutl("snapshot", "status", ours, "-w", "json")
			if err != nil || err2 != nil || sizes.ReplaceAllString(a, "") != sizes.ReplaceAllString(b, "") {
				t.Errorf("%s: %s %v, ours %s %v", name, a, err, b, err2)
			}
		case strings.HasSuffix(name, ".wal"):
			logs++
			if err := exec.Command("cmp", theirs, ours).Run(); err != nil {
				t.Errorf("%s: the logs differ: %v", name, err)
			}
		}
	}
	if databases < 10 || logs < 10 {
		t.Errorf("only %d databases and %d logs were compared", databases, logs)
	}
}

// TestUtlDamage shows what etcdutl dies of: ours tells it in one line and touches nothing.
func TestUtlDamage(t *testing.T) {
	tools := ownTools(t)
	u := utl{tool: []string{tools.Ours, "utl"}, dir: t.TempDir()}
	utlSource(t, harness.Real, filepath.Join(u.dir, "etcd.db"))
	whole, err := os.ReadFile(filepath.Join(u.dir, "etcd.db"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, content []byte, lines ...[]string) {
		t.Helper()
		file := filepath.Join(u.dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			_, stderr, code := u.run(append(line, name)...)
			told := splitLines(strings.TrimSpace(maskLog(stderr)))
			last := told[len(told)-1]
			if code != 1 || !strings.HasPrefix(last, "Error: ") || !strings.Contains(last, name) {
				t.Errorf("%v %s: exit %d\n%s", line, name, code, stderr)
			}
			after, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(after, content) {
				t.Errorf("%v changed %s: %v", line, name, err)
			}
			if _, err := os.Stat(filepath.Join(u.dir, "new")); err == nil {
				t.Errorf("%v %s left a directory", line, name)
			}
		}
	}
	status, hash := []string{"snapshot", "status"}, []string{"hashkv"}
	restore := []string{"snapshot", "restore", "--data-dir=new", "--skip-hash-check"}
	for _, length := range []int{100, 4096, 8192, len(whole) / 2, len(whole) - 32 - 4096} {
		run(fmt.Sprintf("cut-at-%d", length), whole[:length], status, hash, restore)
	}
	run("zeros", make([]byte, 40960), status, hash, restore)
	run("text", bytes.Repeat([]byte("text\n"), 10000), status, hash, restore)
	refused := 0
	for page := 2; page*4096 < len(whole)-4096; page++ {
		damaged := bytes.Clone(whole)
		damaged[page*4096+8] ^= 0x40 // the page's kind
		if _, stderr, code := func() (string, string, int) {
			file := filepath.Join(u.dir, "page")
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			return u.run("snapshot", "status", "page")
		}(); code != 0 {
			refused++
			if len(splitLines(strings.TrimSpace(stderr))) != 1 || !strings.HasPrefix(stderr, "Error: page: damaged at byte ") {
				t.Errorf("page %d: exit %d\n%s", page, code, stderr)
			}
		}
	}
	if refused < 5 {
		t.Errorf("only %d damaged pages were noticed", refused)
	}
}

// TestUtlRestored starts what each tool has restored with each product: a cluster of three, every
// member restored by another tool than its neighbour.
func TestUtlRestored(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	for _, test := range []struct {
		from  harness.Kind
		bump  bool
		kinds []harness.Kind
	}{
		{harness.Real, false, []harness.Kind{harness.Real, harness.Ours, harness.Real}},
		{harness.Ours, false, []harness.Kind{harness.Ours, harness.Real, harness.Ours}},
		{harness.Real, true, []harness.Kind{harness.Ours, harness.Real, harness.Ours}},
		{harness.Ours, true, []harness.Kind{harness.Real, harness.Ours, harness.Real}},
	} {
		t.Run(fmt.Sprintf("of %s by %v, bump %v", test.from, test.kinds, test.bump), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "snapshot.db")
			_, before := utlSource(t, test.from, file)
			both := []utl{{tool: []string{tools.Ours, "utl"}}, {tool: []string{tools.Etcdutl}}}
			runRestored(t, restoredCluster(t, both, file, test.kinds, test.bump), before, test.bump)
		})
	}
}

// restoredCluster restores a cluster, each member by another tool than the one before.
func restoredCluster(t *testing.T, both []utl, file string, kinds []harness.Kind, bump bool) *harness.Cluster {
	t.Helper()
	c := harness.NewCluster(t, false, kinds, "--snapshot-count=30")
	var initial []string
	for _, m := range c.Members {
		initial = append(initial, m.Name+"="+m.AdvertisedPeerURL())
	}
	for i, m := range c.Members {
		u := both[i%2]
		u.dir = t.TempDir()
		args := []string{"snapshot", "restore", file, "--data-dir", m.Dir, "--name", m.Name,
			"--initial-cluster", strings.Join(initial, ","),
			"--initial-advertise-peer-urls", m.AdvertisedPeerURL()}
		if bump {
			args = append(args, "--bump-revision", "1000", "--mark-compacted")
		}
		if out, stderr, code := u.run(args...); code != 0 {
			t.Fatalf("%v: exit %d\n%s%s", args, code, out, stderr)
		}
	}
	c.Start(c.Members...)
	return c
}

// runRestored looks at a cluster that begins where the snapshot was taken, or a jump later.
func runRestored(t *testing.T, c *harness.Cluster, before *pb.HashKVResponse, bump bool) {
	t.Helper()
	client := c.Client()
	defer client.Close()
	revision := before.Header.Revision
	if !bump {
		if found := hashAt(t, c.Members[0], revision); found.Hash != before.Hash {
			t.Errorf("the hash at %d is %d, was %d", revision, found.Hash, before.Hash)
		}
	}
	if list, err := client.MemberList(t.Context()); err != nil || len(list.Members) != 3 {
		t.Errorf("members: %v %v", list, err)
	}
	put, err := client.Put(t.Context(), "after", "x")
	if err != nil {
		t.Fatal(err)
	}
	want := revision + 1
	if bump {
		want += 1000
		_, err := client.Get(t.Context(), "after", clientv3.WithRev(revision))
		if err == nil || !strings.Contains(err.Error(), "compacted") {
			t.Errorf("a revision of before the restore: %v", err)
		}
	}
	if put.Header.Revision != want {
		t.Errorf("the first revision is %d, not %d", put.Header.Revision, want)
	}
	c.Agree(3)
	for _, m := range c.Members {
		harness.MustStop(t, m)
	}
}
