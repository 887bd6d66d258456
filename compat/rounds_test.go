package compat

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"quorate/compat/harness"
)

// firsts are the products whose directories ours begins with.
var firsts = []harness.Kind{harness.Real35, harness.Real36, harness.Real}

// TestRounds lets ours take its turn on directories of etcd 3.5, 3.6 and 3.7 that hold everything a
// directory can hold, and etcd 3.7 after it: all hold the same, byte for byte where ours has no part.
// When another member keeps the versions down, the etcd that began is the last one, too.
func TestRounds(t *testing.T) {
	t.Parallel()
	for _, first := range firsts {
		for _, kill := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/killed=%v", first, kill), func(t *testing.T) {
				if os.Getenv("COMPAT_ROUNDS_KEYS") == "" {
					t.Parallel() // at full size they would measure the disk
				}
				rounds(t, first, kill)
			})
		}
	}
}

// sized are flags for any number of keys.
var sized = []string{"--quota-backend-bytes=8589934592", "--snapshot-count=200"}

func rounds(t *testing.T, first harness.Kind, kill bool) {
	keys := harness.EnvInt(t, "COMPAT_ROUNDS_KEYS", 300)
	m, r, told := beginRounds(t, first, keys, !kill)
	h := hopper{t: t, m: m, r: r, people: told, points: 12}
	huge := keys > 100_000
	if huge {
		h.points = 3 // each of them walks over all rows
	}
	h.to(harness.Ours, kill)
	h.to(harness.Real, false) // rows are compared where nothing was left to the log
	if !huge {
		h.to(harness.Ours, false)
		h.to(harness.Ours, kill)
		h.to(harness.Real, kill)
	}
	if !kill { // the versions are still those of the beginning
		h.to(harness.Ours, false)
		h.to(first, false)
	}
	h.end()
	t.Logf("evidence: from %s, killed %v: %s", first, kill, h.summary)
}

// beginRounds starts a member of etcd and fills it. The last answer is what it says of its users.
func beginRounds(t *testing.T, first harness.Kind, keys int, awaits bool) (*harness.Member, *rand.Rand, string) {
	t.Helper()
	r := rand.New(rand.NewSource(seedOf(t)))
	m := harness.Launch(t, first, sized...)
	peopleRounds(t, m, awaits)
	fillRounds(t, m, r, keys)
	return m, r, people(t, m)
}

// hopper lets products take turns on a directory.
type hopper struct {
	t       *testing.T
	m       *harness.Member
	r       *rand.Rand
	people  string
	points  int64
	kept    string // rows at the last graceful stop
	summary string
}

// to ends the member, starts another product on its directory, compares, and changes a little.
func (h *hopper) to(next harness.Kind, kill bool) {
	h.t.Helper()
	t, m := h.t, h.m
	before, last := holdings(t, m, h.points), m.Kind
	h.stop(kill)
	m.Kind = next
	begun := time.Now()
	harness.MustStart(t, m)
	took := time.Since(begun)
	if after := holdings(t, m, h.points); after != before {
		t.Fatalf("what %s left is on %s\n%s", last, next, differences(before, after))
	}
	if next != harness.Ours {
		if now := people(t, m); now != h.people {
			t.Fatalf("users after %s\n%s", last, differences(h.people, now))
		}
	}
	h.summary += fmt.Sprintf("%s, ", next)
	t.Logf("%s to %s, killed %v: serves after %s; %s", last, next, kill, took.Round(time.Millisecond),
		strings.SplitN(before, "\n", 2)[0])
	touchRounds(t, m, h.r)
}

// stop ends the member. What a graceful one leaves of users and members is what was there before.
func (h *hopper) stop(kill bool) {
	h.t.Helper()
	halt(h.t, h.m, kill)
	if kill {
		return
	}
	kept := rows(h.t, h.m, keptBuckets...)
	if h.kept != "" && kept != h.kept {
		h.t.Fatalf("rows that %s left\n%s", h.m.Kind, differences(h.kept, kept))
	}
	h.kept = kept
}

func (h *hopper) end() {
	h.t.Helper()
	line, _, _ := strings.Cut(holdings(h.t, h.m, 1), "\n")
	h.summary += "equal at each hop; at the end " + line
	h.stop(false)
}

// TestRoundsKilled kills products under load at random moments, each on the directory of the one before:
// nothing that was acknowledged is lost.
func TestRoundsKilled(t *testing.T) {
	t.Parallel()
	kills := harness.EnvInt(t, "COMPAT_ROUND_KILLS", 3)
	for _, first := range firsts {
		t.Run(first.String(), func(t *testing.T) {
			t.Parallel()
			roundsKilled(t, first, kills)
		})
	}
}

func roundsKilled(t *testing.T, first harness.Kind, kills int) {
	r := rand.New(rand.NewSource(seedOf(t)))
	m := harness.Launch(t, first, "--snapshot-count=150")
	l := &ledger{last: map[string]ack{}, trying: map[string]string{}}
	for round := range kills {
		ctx, cancel := context.WithCancel(context.Background())
		var group sync.WaitGroup
		for id := range 8 {
			client := m.Client()
			group.Go(func() {
				defer client.Close()
				if id == 0 {
					l.compactor(ctx, client)
				} else {
					l.writer(ctx, client, id, round)
				}
			})
		}
		goal := l.count.Load() + 50 + int64(r.Intn(600))
		for deadline := time.Now().Add(time.Minute); l.count.Load() < goal; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) || !m.Running() {
				t.Fatalf("the load stopped at %d of %d writes\n%s", l.count.Load(), goal, m.LogTail(20))
			}
		}
		m.Kill()
		cancel()
		group.Wait()
		killed := m.Kind
		switch {
		case killed != harness.Ours:
			m.Kind = harness.Ours
		case r.Intn(3) > 0: // sometimes to itself
			m.Kind = harness.Real
		}
		harness.MustStart(t, m)
		l.check(t, m)
		if t.Failed() {
			t.Fatalf("%s was killed, %s started: round %d, %d writes", killed, m.Kind, round, l.count.Load())
		}
	}
	halt(t, m, false)
	t.Logf("evidence: from %s: %d products killed under load on one directory, %d acknowledged writes, none missing",
		first, kills, l.count.Load())
}

// TestRoundsDown goes down with one directory from 3.7 to ours, 3.6 and 3.5, and up again: by
// `etcdctl downgrade`, with which a member lowers the version of its cluster and its rows, and by
// `migrate` of both tools, which lowers that of the rows alone.
func TestRoundsDown(t *testing.T) {
	t.Parallel()
	m, r, told := beginRounds(t, harness.Real, harness.EnvInt(t, "COMPAT_ROUNDS_KEYS", 100), false)
	h := hopper{t: t, m: m, r: r, people: told, points: 6}
	h.to(harness.Ours, false)
	lower(t, m, "3.6")
	migrations(t, &h)
	h.to(harness.Real36, false)
	lower(t, m, "3.5")
	h.to(harness.Real35, true)
	waitLowered(t, m)
	h.to(harness.Ours, true)
	waitVersions(t, m, "3.7.0", "3.7.0")
	h.to(harness.Real, false)
	h.end()
	t.Logf("evidence: 3.7 to ours, 3.6, 3.5, ours and 3.7 on one directory: %s", h.summary)
}

// lower asks a lone member to lower the versions, and waits until it has.
func lower(t *testing.T, m *harness.Member, version string) {
	t.Helper()
	waitLowered(t, m) // one at a time
	if out, err := m.Etcdctl("downgrade", "enable", version); err != nil {
		t.Fatal(err, out)
	}
	waitVersions(t, m, version+".0", version+".0")
}

// waitLowered waits until no downgrade is under way: a member ends it when all have the version. Until
// then the versions are held down, whoever starts on the directory.
func waitLowered(t *testing.T, m *harness.Member) {
	t.Helper()
	told := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if told = httpAnswer(m.PeerURL() + "/downgrade/enabled"); told == "200 false" {
			return
		}
	}
	t.Fatalf("%s is being downgraded still: %s", m.Kind, told)
}

// waitVersions waits until a member tells that its cluster and its rows have these versions.
func waitVersions(t *testing.T, m *harness.Member, cluster, storage string) {
	t.Helper()
	want := []string{fmt.Sprintf(`"etcdcluster":%q`, cluster)}
	if m.Kind != harness.Real35 {
		want = append(want, fmt.Sprintf(`"storage":%q`, storage))
	}
	var told string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		told = httpAnswer(m.ClientURL() + "/version")
		if !containsAll(told, want) {
			continue
		}
		return
	}
	t.Fatalf("%s does not come to %s: %s", m.Kind, want, told)
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// migrations takes the stopped member's directory up and down by both tools, each on a copy of its
// own: they say and leave the same, and on what ours leaves the older etcd starts.
func migrations(t *testing.T, h *hopper) {
	t.Helper()
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	before := holdings(t, h.m, h.points)
	h.stop(false)
	var left [2]string
	for i, tool := range [][]string{{tools.Etcdutl}, {tools.Ours, "utl"}} {
		copied := h.m.Clone(harness.Real36, filepath.Join(t.TempDir(), "copy"))
		harness.CopyDir(t, h.m.Dir, copied.Dir)
		for _, target := range []string{"3.7", "3.6", "3.5", "3.6", "3.7", "3.6"} {
			args := append(tool[1:], "migrate", "--data-dir", copied.Dir, "--target-version", target)
			out, err := exec.Command(tool[0], args...).CombinedOutput()
			left[i] += fmt.Sprintf("%s: %s%v\n%s", target, maskLog(string(out)), err,
				strings.ReplaceAll(rows(t, copied, "meta", "cluster"), copied.Dir, "DIR"))
		}
		if tool[0] != tools.Ours {
			continue
		}
		// The rows of 3.7 keep 3.6 away, whatever the cluster's version; those of 3.6 do not.
		harness.MustStart(t, copied)
		if after := holdings(t, copied, h.points); after != before {
			t.Fatalf("after migrate\n%s", differences(before, after))
		}
		copied.Kill()
	}
	if left[0] != left[1] {
		t.Fatalf("migrate\n%s", differences(left[0], left[1]))
	}
	harness.MustStart(t, h.m)
}
