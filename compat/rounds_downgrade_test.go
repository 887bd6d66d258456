package compat

import (
	"slices"
	"testing"
	"time"

	"quorate/compat/harness"
)

// TestDowngradeRounds lowers a cluster of ours and etcd 3.7 to 3.6 under load, as etcd's procedure says:
// `etcdctl downgrade enable`, then member by member etcd 3.6 on the same directory, until the downgrade
// ends by itself; and up again, to other products than before. The application notices nothing.
func TestDowngradeRounds(t *testing.T) {
	t.Parallel()
	eachMix(t, downgradeRounds, "QQE")
}

func downgradeRounds(t *testing.T, m mix) {
	seed := seedOf(t)
	kinds := m.kinds()
	c := harness.LaunchCluster(t, false, kinds, "--snapshot-count=200", "--snapshot-catchup-entries=100")
	l := startLoad(t, c, 4, seed)
	progress(t, l, 100)
	for _, one := range c.Members {
		waitVersions(t, one, "3.7.0", "3.7.0")
	}
	if out, err := c.Members[0].Etcdctl("downgrade", "enable", "3.6"); err != nil {
		t.Fatal(err, out)
	}
	for _, one := range c.Members {
		waitVersions(t, one, "3.6.0", "3.6.0")
	}
	begun := time.Now()
	replace(t, c, l, func(*harness.Member) harness.Kind { return harness.Real36 })
	for _, one := range c.Members {
		waitDowngraded(t, one)
	}
	down := time.Since(begun)
	progress(t, l, 100)
	// While one of 3.6 is left, the others stay what they can leave.
	up := func(one *harness.Member) harness.Kind {
		return kinds[(slices.Index(c.Members, one)+1)%len(kinds)]
	}
	replace(t, c, l, up)
	for _, one := range c.Members {
		waitVersions(t, one, "3.7.0", "3.7.0")
	}
	finish(t, c, l, 60)
	t.Logf("evidence: %s to 3.6 by etcdctl downgrade in %s and up again, under load: %s", m, down.Round(time.Second/10),
		l.Summary())
	restartAll(t, c)
}

// replace starts another product on each member's directory, the leader's last.
func replace(t *testing.T, c *harness.Cluster, l *harness.Load, kind func(*harness.Member) harness.Kind) {
	t.Helper()
	leader := c.WaitLeader()
	for _, one := range append(c.Others(leader), leader) {
		changeInPlace(t, c, one, kind(one))
		progress(t, l, 30)
	}
}

// waitDowngraded waits until a member of 3.6 says that no downgrade is under way any more.
func waitDowngraded(t *testing.T, m *harness.Member) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if status, err := m.Status(); err == nil && !status.GetDowngradeInfo().GetEnabled() &&
			status.StorageVersion == "3.6.0" {
			return
		}
	}
	status, err := m.Status()
	t.Fatalf("%s, %s: the downgrade does not end: %v %v", m.Name, m.Kind, status, err)
}
