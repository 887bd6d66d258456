package compat

import (
	"slices"
	"testing"
	"time"

	"quorate/compat/harness"
)

// TestMigration turns a cluster of one product into one of another and so on, member by member, under
// an application that must notice nothing but delays: no request that fails in the end, no revision
// that goes back, no gap in its watch. The letters are the products in turn.
func TestMigration(t *testing.T) {
	t.Parallel()
	rounds := harness.EnvInt(t, "COMPAT_MIGRATIONS", 1)
	for _, way := range []struct {
		name string
		step func(*testing.T, *harness.Cluster, *harness.Member, harness.Kind)
	}{
		{"in place", changeInPlace},
		{"by replacement", changeByReplacement},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			eachMix(t, func(t *testing.T, m mix) {
				for range rounds {
					migrate(t, m, way.step)
				}
			}, "EQE")
		})
	}
}

func migrate(t *testing.T, m mix, step func(*testing.T, *harness.Cluster, *harness.Member, harness.Kind)) {
	seed := seedOf(t)
	kinds := m.kinds()
	c := harness.LaunchCluster(t, false, []harness.Kind{kinds[0], kinds[0], kinds[0]}, "--snapshot-count=500",
		"--snapshot-catchup-entries=100")
	l := startLoad(t, c, 6, seed)
	progress(t, l, 300)
	begun := time.Now()
	for at, kind := range kinds[1:] {
		// Followers first, the leader last, so that leadership moves as seldom as possible.
		leader := c.WaitLeader()
		olds := append(c.Others(leader), leader)
		// While one member of 3.6 is left, the others can go back to 3.6.
		left := 0
		if kind != harness.Real36 && slices.Contains(kinds[at+2:], harness.Real36) {
			left = 1
		}
		for _, old := range olds[:len(olds)-left] {
			if old.Kind != kind {
				step(t, c, old, kind)
				progress(t, l, 100)
			}
		}
		changed := 0
		for _, now := range c.Members {
			if now.Kind == kind && now.Running() {
				changed++
			}
		}
		if changed != len(c.Members)-left {
			t.Errorf("%d members are %s", changed, kind)
		}
		progress(t, l, 300)
	}
	took := time.Since(begun)
	finish(t, c, l, 100)
	t.Logf("evidence: %s: three members changed %d times under load in %s: %s", m, len(kinds)-1,
		took.Round(time.Second/10), l.Summary())
	restartAll(t, c)
}

// changeInPlace stops a member and starts the other product on its directory.
func changeInPlace(t *testing.T, c *harness.Cluster, old *harness.Member, kind harness.Kind) {
	t.Helper()
	from, begun := old.Kind, time.Now()
	harness.MustStop(t, old)
	stopped := time.Since(begun)
	if err := harness.CheckDir(old.Dir); err != nil {
		t.Errorf("the directory that %s leaves: %v", old.Kind, err)
	}
	old.Kind, begun = kind, time.Now()
	c.Start(old)
	t.Logf("%s stopped in %s, %s served after %s", from, short(stopped), kind, short(time.Since(begun)))
}

// changeByReplacement lets a new member learn and vote before the old one goes.
func changeByReplacement(t *testing.T, c *harness.Cluster, old *harness.Member, kind harness.Kind) {
	t.Helper()
	joined := c.Join(kind, true)
	c.Promote(joined)
	if c.WaitLeader() == old {
		c.MoveLeader(joined)
	}
	c.Remove(old)
}
