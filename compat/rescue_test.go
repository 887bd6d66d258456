package compat

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// rescued is what `utl rescue -w json` tells.
type rescued struct {
	Directories []struct {
		Path      string
		Member    string
		Databases []struct{ Path string }
		Damage    []string
	}
	Chosen struct {
		Database, Log             string
		Entry, Term               uint64
		Revision, CertainRevision int64
		Voters, WholeVoters       int
		MayLackAcknowledged       bool
		LostEntries               []uint64
	}
	Made *struct {
		Member, Cluster, Name string
		Revision              int64
	}
}

// traces are all files below some directories: what is in them, and when that was written.
func traces(t *testing.T, dirs []string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			text := fmt.Sprint(info.ModTime().UnixNano(), info.Mode())
			if info.Mode().IsRegular() {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text += fmt.Sprintf(" %d %x", len(content), sha256.Sum256(content))
			}
			all[path] = text
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// runRescue calls the tool on directories, which must stay as they are.
func runRescue(t *testing.T, dirs []string, args ...string) rescued {
	t.Helper()
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	u := utl{tool: []string{tools.Ours, "utl"}, dir: t.TempDir()}
	before := traces(t, dirs)
	stdout, stderr, code := u.run(slices.Concat([]string{"rescue", "-w", "json"}, args, dirs)...)
	if after := traces(t, dirs); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("the rescue has changed what it read")
	}
	if code != 0 {
		t.Fatalf("rescue %v: exit %d\n%s%s", dirs, code, stdout, stderr)
	}
	var told rescued
	if err := json.Unmarshal([]byte(stdout), &told); err != nil {
		t.Fatalf("%v\n%s", err, stdout)
	}
	return told
}

// disaster is a cluster that has died under load.
type disaster struct {
	load *harness.Load
	dirs []string // what is left: of the two that died last, and of the one that died before
	at   int64    // a revision before the end, and the hash of the keys there
	hash uint32
	best int // which of the directories has the most
}

// runDisaster lets a cluster work, kills one member, and some time later the other two.
func runDisaster(t *testing.T, kinds []harness.Kind) (*harness.Cluster, disaster) {
	t.Helper()
	c := harness.LaunchCluster(t, false, kinds, "--snapshot-count=50")
	leader := c.WaitLeader()
	client := c.ClientOf(leader)
	if _, err := client.Grant(t.Context(), 5000); err != nil {
		t.Fatal(err)
	}
	if kinds[0] == harness.Real {
		for _, words := range [][]string{{"user", "add", "root:secret"}, {"role", "add", "r"}} {
			if out, err := leader.Etcdctl(words...); err != nil {
				t.Fatal(out, err)
			}
		}
	}
	load, err := harness.NewLoad(harness.Endpoints(c.Members))
	if err != nil {
		t.Fatal(err)
	}
	load.GiveUp, load.Attempt = time.Second, time.Second
	load.Start(4, 7)
	wait := func(n int64) {
		if err := load.WaitFor(n, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	wait(80)
	early := c.Others(leader)[0]
	early.Kill()
	wait(200)
	hash, err := client.HashKV(t.Context(), leader.Endpoint(), 0)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	wait(350)
	left := c.Running()
	for _, m := range left {
		m.Kill()
	}
	load.Stop() // it cannot end well
	d := disaster{load: load, at: hash.HashRevision, hash: hash.Hash}
	dir := t.TempDir()
	type position struct{ term, entry uint64 }
	var most position
	for i, m := range append(left, early) {
		to := filepath.Join(dir, m.Name)
		copyAll(t, m.Dir, to)
		d.dirs = append(d.dirs, to)
		told := runRescue(t, []string{to}, "--dry-run").Chosen
		at := position{told.Term, told.Entry}
		if at.term > most.term || at.term == most.term && at.entry > most.entry {
			most, d.best = at, i
		}
	}
	return c, d
}

// rescueCase is a set of directories, and what becomes of it.
type rescueCase struct {
	name   string
	dirs   []int                                     // of the disaster
	damage func(t *testing.T, dirs []string)         // to copies of them
	kind   harness.Kind                              // that starts on the new directory
	all    bool                                      // whether everything that was acknowledged is there
	look   func(t *testing.T, d disaster, r rescued) // at the report
}

// cutLog cuts the last segment of a log in the middle of what is written.
func cutLog(t *testing.T, data string) {
	t.Helper()
	files, err := harness.LogFiles(data)
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	last := files[len(files)-1]
	frames, err := harness.Frames(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, frames[len(frames)*3/4].Offset+12); err != nil {
		t.Fatal(err)
	}
}

// breakDatabase spoils the kind of every page but the first two.
func breakDatabase(t *testing.T, data string) {
	t.Helper()
	content, err := os.ReadFile(harness.DBFile(data))
	if err != nil {
		t.Fatal(err)
	}
	for at := 2 * 4096; at < len(content); at += 4096 {
		content[at+8] ^= 0x40
	}
	if err := os.WriteFile(harness.DBFile(data), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRescue kills clusters under load and makes new ones of what is left: whatever was acknowledged
// is in it if a member that had it is, and the old members stay out.
func TestRescue(t *testing.T) {
	t.Parallel()
	if realTwice() {
		t.Skip("needs quorate's own utl")
	}
	eachMix(t, func(t *testing.T, kinds mix) {
		t.Parallel()
		c, d := runDisaster(t, kinds.kinds())
		best, stale := d.best, 2
		other := 1 - best
		if best == stale {
			t.Fatal("the member that died first has the longest log")
		}
		cases := []rescueCase{
			{name: "the best alone", dirs: []int{best}, kind: harness.Real, all: true,
				look: func(t *testing.T, d disaster, r rescued) {
					if !r.Chosen.MayLackAcknowledged || r.Chosen.WholeVoters != 1 {
						t.Errorf("one of three members is not enough to be certain: %+v", r.Chosen)
					}
				}},
			{name: "two of three", dirs: []int{stale, other, best}, kind: harness.Ours, all: true,
				look: func(t *testing.T, d disaster, r rescued) {
					if r.Chosen.MayLackAcknowledged || r.Chosen.Voters != 3 || r.Chosen.WholeVoters != 3 {
						t.Errorf("three of three members are enough to be certain: %+v", r.Chosen)
					}
				}},
			{name: "a cut log beside a whole one", dirs: []int{other, best}, kind: harness.Ours, all: true,
				damage: func(t *testing.T, dirs []string) { cutLog(t, dirs[0]) },
				look: func(t *testing.T, d disaster, r rescued) {
					// A database may have everything, too.
					if len(r.Directories[0].Damage) == 0 ||
						r.Chosen.Log != "" && !strings.Contains(r.Chosen.Log, r.Directories[1].Path) {
						t.Errorf("%+v", r)
					}
				}},
			{name: "a broken database with a whole log", dirs: []int{best, stale}, kind: harness.Real, all: true,
				damage: func(t *testing.T, dirs []string) { breakDatabase(t, dirs[0]) },
				look: func(t *testing.T, d disaster, r rescued) {
					if len(r.Directories[0].Databases) != 0 || !strings.Contains(r.Chosen.Database, r.Directories[1].Path) ||
						!strings.Contains(r.Chosen.Log, r.Directories[0].Path) {
						t.Errorf("%+v", r)
					}
				}},
			{name: "a cut log alone", dirs: []int{best}, kind: harness.Ours,
				damage: func(t *testing.T, dirs []string) { cutLog(t, dirs[0]) }},
			{name: "a database without its log", dirs: []int{best}, kind: harness.Real,
				damage: func(t *testing.T, dirs []string) {
					if err := os.RemoveAll(harness.WALDir(dirs[0])); err != nil {
						t.Fatal(err)
					}
				},
				look: func(t *testing.T, d disaster, r rescued) {
					if r.Chosen.Log != "" || r.Chosen.Revision != r.Chosen.CertainRevision {
						t.Errorf("%+v", r.Chosen)
					}
				}},
		}
		for _, test := range cases {
			t.Run(test.name, func(t *testing.T) { d.check(t, test) })
		}
		t.Run("old members stay out", func(t *testing.T) { d.strangers(t, c) })
	}, "EEE", "QQE")
}

// check makes a cluster of some directories, and looks at what is in it.
func (d disaster) check(t *testing.T, test rescueCase) {
	var dirs []string
	for _, i := range test.dirs {
		to := filepath.Join(t.TempDir(), "data")
		copyAll(t, d.dirs[i], to)
		dirs = append(dirs, to)
	}
	if test.damage != nil {
		test.damage(t, dirs)
	}
	m := harness.NewMember(test.kind, t.TempDir())
	harness.Cleanup(t, m)
	told := runRescue(t, dirs, "--output-dir", m.Dir, "--name", m.Name,
		"--initial-advertise-peer-urls", m.PeerURL())
	if test.look != nil {
		test.look(t, d, told)
	}
	if err := harness.CheckDir(m.Dir); err != nil {
		t.Errorf("etcd's tools on the new directory: %v", err)
	}
	harness.MustStart(t, m)
	client := m.Client()
	defer client.Close()
	now := hashAt(t, m, 0)
	if now.Header.Revision != told.Made.Revision || told.Chosen.Revision != told.Made.Revision {
		t.Errorf("revision %d, told %+v", now.Header.Revision, told)
	}
	if now.Header.Revision >= d.at {
		if found := hashAt(t, m, d.at); found.Hash != d.hash {
			t.Errorf("the hash at %d is %d, was %d", d.at, found.Hash, d.hash)
		}
	} else if test.all {
		t.Errorf("revision %d is before %d", now.Header.Revision, d.at)
	}
	if test.all {
		history, err := m.History(now.Header.Revision)
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range d.load.Check(history) {
			t.Error(wrong)
		}
	}
	if leases, err := client.Leases(t.Context()); err != nil || len(leases.Leases) == 0 {
		t.Errorf("leases: %v %v", leases, err)
	}
	list, err := client.MemberList(t.Context())
	if err != nil || len(list.Members) != 1 || fmt.Sprintf("%x", list.Members[0].ID) != told.Made.Member ||
		fmt.Sprintf("%x", list.Header.ClusterId) != told.Made.Cluster {
		t.Errorf("members %v %v, told %+v", list, err, told.Made)
	}
	put, err := client.Put(t.Context(), "after", "x")
	if err != nil || put.Header.Revision != told.Made.Revision+1 {
		t.Errorf("the first put: %v %v", put, err)
	}
	harness.MustStop(t, m)
}

// strangers starts old members beside a new cluster that has the address of an old one.
func (d disaster) strangers(t *testing.T, c *harness.Cluster) {
	left := c.Members
	place := slices.IndexFunc(left, func(m *harness.Member) bool { return filepath.Base(d.dirs[d.best]) == m.Name })
	own := left[place].Clone(harness.Ours, filepath.Join(t.TempDir(), "new"))
	harness.Cleanup(t, own)
	told := runRescue(t, d.dirs[:1], "--output-dir", own.Dir, "--name", own.Name,
		"--initial-advertise-peer-urls", own.PeerURL())
	harness.MustStart(t, own)
	for i, kind := range []harness.Kind{harness.Real, harness.Ours} {
		m := left[(place+1+i)%3]
		at := slices.IndexFunc(d.dirs, func(dir string) bool { return filepath.Base(dir) == m.Name })
		dir := filepath.Join(t.TempDir(), "old")
		copyAll(t, d.dirs[at], dir)
		old := m.Clone(kind, dir)
		harness.Cleanup(t, old)
		if err := old.Spawn(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for !strings.Contains(old.LastLog(), "cluster ID mismatch") {
			if time.Now().After(deadline) {
				t.Fatalf("%s is not refused:\n%s", kind, old.LogTail(20))
			}
			time.Sleep(50 * time.Millisecond)
		}
		old.Kill()
	}
	client := own.Client()
	defer client.Close()
	ctx := clientv3.WithRequireLeader(t.Context())
	put, err := client.Put(ctx, "alone", "x")
	if err != nil || put.Header.Revision != told.Made.Revision+1 {
		t.Errorf("the new member was disturbed: %v %v", put, err)
	}
	if list, err := client.MemberList(ctx); err != nil || len(list.Members) != 1 {
		t.Errorf("members: %v %v", list, err)
	}
	t.Logf("evidence: %d acknowledged writes are in what was rescued, revisions up to %d certain of %d",
		d.load.Acknowledged(), told.Chosen.CertainRevision, told.Chosen.Revision)
}

// TestUtlWrongDirectories gives every command of utl a directory that a member of each product works
// on, then one that was copied in part: each is refused in one line, and stays as it is.
func TestUtlWrongDirectories(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	u := utl{tool: []string{tools.Ours, "utl"}, dir: t.TempDir()}
	refused := func(dir, what string, args ...string) {
		t.Helper()
		stdout, stderr, code := u.run(args...)
		last := splitLines(strings.TrimSpace(maskLog(stderr)))
		told := last[len(last)-1]
		if args[0] == "inspect" {
			told = stdout
		}
		if code == 0 || !strings.Contains(told, what) || strings.Contains(stderr, "panic") {
			t.Errorf("%v: exit %d, wanted %q\n%s%s", args, code, what, stdout, stderr)
		}
		if _, err := os.Stat(filepath.Join(u.dir, "new")); err == nil {
			t.Errorf("%v left a directory", args)
		}
	}
	all := func(dir string, what map[string]string) {
		t.Helper()
		db := harness.DBFile(dir)
		for name, args := range map[string][]string{
			"status":  {"snapshot", "status", db},
			"restore": {"snapshot", "restore", db, "--skip-hash-check", "--data-dir", "new"},
			"hashkv":  {"hashkv", db},
			"defrag":  {"defrag", "--data-dir", dir},
			"migrate": {"migrate", "--data-dir", dir, "--target-version", "3.6"},
			"inspect": {"inspect", dir},
			"rescue":  {"rescue", dir, "--output-dir", "new"},
		} {
			if told, ok := what[name]; ok {
				refused(dir, told, append(args, "--timeout", "50ms")...)
			}
		}
	}
	busy := "in use by another process"
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		m := harness.Launch(t, kind)
		all(m.Dir, map[string]string{"status": busy, "restore": busy, "hashkv": busy, "defrag": busy,
			"migrate": busy, "inspect": busy, "rescue": "another process uses this data directory"})
		// The log alone tells as well that somebody works on it.
		if err := os.Rename(harness.DBFile(m.Dir), filepath.Join(u.dir, "db")); err != nil {
			t.Fatal(err)
		}
		all(m.Dir, map[string]string{"rescue": "another process uses this data directory"})
		if err := os.Rename(filepath.Join(u.dir, "db"), harness.DBFile(m.Dir)); err != nil {
			t.Fatal(err)
		}
		fillHistory(t, m)
		harness.MustStop(t, m)

		restored := restoredLog(t, u, kind, m)
		all(restored, map[string]string{"rescue": "nothing can be rescued: no database is whole"})

		// The copy of the database has stopped in the middle, and that of the log has not begun.
		half := filepath.Join(u.dir, "half-"+kind.String())
		copyAll(t, m.Dir, half)
		if err := errors.Join(os.Truncate(harness.DBFile(half), 7*4096), os.RemoveAll(harness.WALDir(half)),
			os.Mkdir(harness.WALDir(half), 0o700)); err != nil {
			t.Fatal(err)
		}
		before := traces(t, []string{half})
		damaged := "db: damaged at byte "
		all(half, map[string]string{"status": damaged, "restore": damaged, "hashkv": damaged, "defrag": damaged,
			"migrate": damaged, "inspect": damaged, "rescue": "nothing can be rescued"})
		if after := traces(t, []string{half}); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: a directory that was copied in part has changed", kind)
		}
	}
}

// restoredLog lets a member work on what was restored of another's database, and removes its own. Its
// log begins with the first entry, and yet what was restored is not in it.
func restoredLog(t *testing.T, u utl, kind harness.Kind, of *harness.Member) string {
	t.Helper()
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	if kind == harness.Real {
		u.tool = []string{tools.Etcdutl}
	}
	m := harness.NewMember(kind, t.TempDir())
	harness.Cleanup(t, m)
	if _, stderr, code := u.run("snapshot", "restore", harness.DBFile(of.Dir), "--skip-hash-check",
		"--data-dir", m.Dir, "--name", m.Name, "--initial-cluster", m.Name+"="+m.PeerURL(),
		"--initial-advertise-peer-urls", m.PeerURL()); code != 0 {
		t.Fatal(stderr)
	}
	harness.MustStart(t, m)
	if out, err := m.Etcdctl("put", "after", "x"); err != nil {
		t.Fatal(out, err)
	}
	harness.MustStop(t, m)
	if err := os.Remove(harness.DBFile(m.Dir)); err != nil {
		t.Fatal(err)
	}
	return m.Dir
}
