package compat

import (
	"slices"
	"testing"
	"time"

	"quorate/compat/harness"
)

// TestClusterKills kills the leader under load, again and again: another one leads soon, nothing
// acknowledged is lost, the application's watch is unbroken, and all members hold the same.
func TestClusterKills(t *testing.T) {
	rounds := harness.EnvInt(t, "COMPAT_KILLS", 3)
	eachMix(t, func(t *testing.T, m mix) { leaderKills(t, m, rounds) }, "QQQ")
}

func leaderKills(t *testing.T, m mix, rounds int) {
	seed := seedOf(t)
	c := harness.LaunchCluster(t, false, m.kinds(), "--snapshot-count=1000")
	l := startPatientLoad(t, c, 6, seed, time.Minute) // a request may meet one kill after the other
	var elections, silences []time.Duration
	for round := range rounds {
		progress(t, l, 200)
		leader := c.WaitLeader()
		others := c.Others(leader)
		begun := time.Now()
		leader.Kill()
		elections = append(elections, newLeader(t, c, others, begun))
		progress(t, l, 100)
		silences = append(silences, time.Since(begun))
		c.Start(leader)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	finish(t, c, l, 100)
	slices.Sort(elections)
	slices.Sort(silences)
	late := 0
	for _, took := range elections {
		if took > 2*harness.ElectionTimeout {
			late++
		}
	}
	t.Logf("evidence: %s: %d leaders killed; the next one led after %s (median), %s (longest); %d took "+
		"longer than two election timeouts; 100 more writes were answered after %s (median), %s (longest)",
		m, rounds, short(median(elections)), short(elections[len(elections)-1]), late,
		short(median(silences)), short(silences[len(silences)-1]))
	// Two members that start to campaign in the same moment split the votes, in either product.
	if late*20 > max(20, rounds) {
		t.Errorf("%d of %d elections took longer than two election timeouts: %v", late, rounds, elections)
	}
}

// newLeader waits until one of the members leads and returns how long after begun.
func newLeader(t *testing.T, c *harness.Cluster, members []*harness.Member, begun time.Time) time.Duration {
	t.Helper()
	c.WaitLeader(members...)
	return time.Since(begun)
}

func median(sorted []time.Duration) time.Duration { return sorted[len(sorted)/2] }

func short(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
