package compat

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// lagFlags keep so little of the log that who missed a few hundred entries needs a snapshot.
var lagFlags = []string{"--snapshot-count=100", "--snapshot-catchup-entries=20"}

const lagEntries = 500

// TestClusterCatchUp lets members of each product miss more than the log of a leader of each product
// still has: they get a snapshot, and hold the same as the others.
func TestClusterCatchUp(t *testing.T) {
	t.Parallel()
	eachMix(t, catchUp, "QEQ", "6QQ")
}

func catchUp(t *testing.T, m mix) {
	seedOf(t)
	c := harness.LaunchCluster(t, false, m.kinds(), lagFlags...)
	shown := map[string]bool{}
	for _, leader := range c.Members {
		for _, lagging := range c.Others(leader) {
			pair := fmt.Sprintf("%s to %s", leader.Kind, lagging.Kind)
			if shown[pair] {
				continue
			}
			shown[pair] = true
			refresh(t, c, leader)
			before := installed(t, lagging)
			lagging.Kill()
			fillLog(t, c, leader, lagEntries)
			c.Start(lagging)
			c.Agree(30)
			if installed(t, lagging) == before {
				t.Errorf("%s: no snapshot was needed\n%s", pair, lagging.LogTail(20))
			}
		}
	}
	restartAll(t, c)
	t.Logf("evidence: %s: snapshots went %v", m, slices.Sorted(keysOf(shown)))
}

func keysOf(set map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range set {
			if !yield(key) {
				return
			}
		}
	}
}

// refresh starts a member again and makes it the leader. A leader of etcd's keeps its whole log for 30
// seconds after it sent a snapshot; a new start ends that.
func refresh(t *testing.T, c *harness.Cluster, leader *harness.Member) {
	t.Helper()
	harness.MustStop(t, leader)
	c.Start(leader)
	c.Settle()
	c.MoveLeader(leader)
}

func installed(t *testing.T, m *harness.Member) int {
	t.Helper()
	count, err := harness.Installed(m.Dir)
	if err != nil {
		t.Fatalf("%s, %s: %v", m.Name, m.Kind, err)
	}
	return count
}

// fillLog writes n entries through a member.
func fillLog(t *testing.T, c *harness.Cluster, m *harness.Member, n int) {
	t.Helper()
	client := c.ClientOf(m)
	defer client.Close()
	const writers = 8
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range n / writers {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				_, err := client.Put(ctx, fmt.Sprintf("fill/%d/%d", w, i%20), strings.Repeat("f", 1000))
				cancel()
				if err != nil {
					t.Errorf("filling: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// TestClusterInstallKilled kills a member at any moment while it gets a snapshot, and starts the other
// product on what it left: who finishes the install must not depend on who began it.
func TestClusterInstallKilled(t *testing.T) {
	t.Parallel()
	rounds := harness.EnvInt(t, "COMPAT_INSTALL_KILLS", 3)
	eachMix(t, func(t *testing.T, m mix) { installKilled(t, m, rounds) }, "QEQ")
}

func installKilled(t *testing.T, m mix, rounds int) {
	r := rand.New(rand.NewSource(seedOf(t)))
	c := harness.LaunchCluster(t, true, m.kinds(), lagFlags...)
	lagging := c.Members[len(c.Members)-1]
	client := c.ClientOf(c.Others(lagging)...)
	for i := range 200 { // something to transfer
		putKey(t, client, fmt.Sprintf("large/%d", i), strings.Repeat("l", 20_000))
	}
	stages := map[string]int{}
	got := 0
	for round := range rounds {
		leader := c.Members[round%(len(c.Members)-1)]
		refresh(t, c, leader)
		before := installed(t, lagging)
		lagging.Kill()
		fillLog(t, c, leader, lagEntries)
		c.Net.Set(leader, lagging, harness.Link{Rate: 20 << 20})
		if err := lagging.Spawn(); err != nil {
			t.Fatal(err)
		}
		stages[killAtStage(lagging, stage(r.Intn(int(stageCount))), r)]++
		c.Net.Heal()
		lagging.Kill()
		if slices.Contains(m.kinds(), harness.Ours) && lagging.Kind != harness.Real36 && r.Intn(2) == 0 {
			lagging.Kind = lagging.Kind.Other()
		}
		c.Start(lagging)
		c.Agree(20)
		got += installed(t, lagging) - before
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	if got == 0 {
		t.Errorf("no snapshot was installed in %d rounds", rounds)
	}
	t.Logf("evidence: %s: %d kills of a member that gets a snapshot (%v), %d snapshots in its log at the end",
		m, rounds, stages, got)
	restartAll(t, c)
}

// stage is a moment of an install, as its files show it.
type stage int

const (
	stageAny      stage = iota // at some time after the start
	stagePartial               // a part of the database is there
	stageComplete              // the whole database lies beside the old one
	stageRenamed               // it has taken the place of the old one
	stageCount
)

// killAtStage waits for a stage, kills the member and says which stage that was.
func killAtStage(m *harness.Member, wanted stage, r *rand.Rand) string {
	dir := m.Dir + "/member/snap"
	begun := time.Now()
	limit := 4 * time.Second
	if wanted == stageAny {
		limit = time.Duration(r.Intn(800)) * time.Millisecond
	}
	complete := false
	for time.Since(begun) < limit {
		files, _ := os.ReadDir(dir)
		partial, whole := false, false
		for _, file := range files {
			name := file.Name()
			whole = whole || strings.HasSuffix(name, ".snap.db")
			partial = partial || strings.HasPrefix(name, "tmp") || strings.HasSuffix(name, ".tmp")
		}
		complete = complete || whole
		switch {
		case wanted == stagePartial && partial:
			m.Kill()
			return "while the database arrives"
		case wanted == stageComplete && whole:
			m.Kill()
			return "when the database has arrived"
		case wanted == stageRenamed && complete && !whole:
			m.Kill()
			return "when the database is in place"
		}
		time.Sleep(200 * time.Microsecond)
	}
	m.Kill()
	return "at any time"
}

func putKey(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := client.Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
}
