package compat

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	"quorate/compat/harness"
)

// fault is something that happens to the network, and who must be served meanwhile.
type fault struct {
	name string
	// strike changes the network and returns the members that are together a majority.
	strike func(c *harness.Cluster, leader, follower *harness.Member) []*harness.Member
}

var (
	cut  = harness.Link{Cut: true}
	hold = harness.Link{Hold: true}
)

var networkFaults = []fault{
	{"the leader is cut off", func(c *harness.Cluster, leader, _ *harness.Member) []*harness.Member {
		c.Net.Isolate(leader, cut)
		return c.Others(leader)
	}},
	{"the leader's packets are lost both ways", func(c *harness.Cluster, leader, _ *harness.Member) []*harness.Member {
		c.Net.Isolate(leader, hold)
		return c.Others(leader)
	}},
	{"a follower is cut off", func(c *harness.Cluster, _, follower *harness.Member) []*harness.Member {
		c.Net.Isolate(follower, cut)
		return c.Others(follower)
	}},
	{"a follower's packets are lost both ways", func(c *harness.Cluster, _, follower *harness.Member) []*harness.Member {
		c.Net.Isolate(follower, hold)
		return c.Others(follower)
	}},
	{"the leader hears nobody", func(c *harness.Cluster, leader, _ *harness.Member) []*harness.Member {
		for _, m := range c.Others(leader) {
			c.Net.Set(m, leader, hold)
		}
		return c.Others(leader)
	}},
	{"nobody hears the leader", func(c *harness.Cluster, leader, _ *harness.Member) []*harness.Member {
		for _, m := range c.Others(leader) {
			c.Net.Set(leader, m, hold)
		}
		return c.Others(leader)
	}},
	{"a follower does not hear the leader", func(c *harness.Cluster, leader, follower *harness.Member) []*harness.Member {
		c.Net.Set(leader, follower, hold)
		return c.Others(follower)
	}},
	{"the leader does not hear a follower", func(c *harness.Cluster, leader, follower *harness.Member) []*harness.Member {
		c.Net.Set(follower, leader, hold)
		return c.Others(follower)
	}},
	{"200 ms delay", func(c *harness.Cluster, _, _ *harness.Member) []*harness.Member {
		c.Net.All(harness.Link{Delay: 200 * time.Millisecond})
		return c.Members
	}},
	{"5 % loss", func(c *harness.Cluster, _, _ *harness.Member) []*harness.Member {
		c.Net.All(harness.Link{Loss: 0.05})
		return c.Members
	}},
}

// faultMax is how long a majority may take until it serves in spite of a fault: a dead connection is
// found after five seconds, then there is an election.
const faultMax = 20 * time.Second

// faultWrites are so many answered writes through every connected member: alive, not only twitching.
const faultWrites = 3

// TestClusterFaults lets the network between the members fail in every way: what the clients were
// answered is linearizable, and wherever a majority is connected it serves.
func TestClusterFaults(t *testing.T) {
	t.Parallel()
	faults := harness.EnvInt(t, "COMPAT_FAULTS", 4)
	eachMix(t, func(t *testing.T, m mix) { clusterFaults(t, m, faults) }, "QQE")
}

func clusterFaults(t *testing.T, m mix, faults int) {
	seed := seedOf(t)
	random := rand.New(rand.NewSource(seed))
	c := harness.LaunchCluster(t, true, m.kinds())
	l := startLoad(t, c, 3, seed)
	r := startRegisters(c, seed)
	longest := map[string]time.Duration{}
	var order []int // all in some order, then all in another
	for len(order) < faults {
		order = append(order, random.Perm(len(networkFaults))...)
	}
	for _, at := range order[:faults] {
		one := networkFaults[at]
		leader := c.WaitLeader()
		others := c.Others(leader)
		majority := one.strike(c, leader, others[random.Intn(len(others))])
		begun := time.Now()
		err := r.live(c, majority, faultWrites, faultMax)
		longest[one.name] = max(longest[one.name], time.Since(begun))
		// Long enough for whoever is alone to notice, and then at any moment.
		pause := harness.ElectionTimeout + time.Duration(random.Intn(1000))*time.Millisecond
		time.Sleep(max(0, pause-time.Since(begun)))
		c.Net.Heal()
		if err != nil {
			t.Errorf("%s (%s leads): %v", one.name, leader.Kind, err)
		}
		if err := r.live(c, c.Members, faultWrites, faultMax); err != nil {
			t.Fatalf("after %s: %v", one.name, err)
		}
	}
	finishRegisters(t, c, r, l)
	for _, one := range networkFaults {
		if longest[one.name] == 0 {
			continue
		}
		t.Logf("evidence: %s: %s: %d writes through each connected member within %s", m, one.name,
			faultWrites, short(longest[one.name]))
	}
}

// finishRegisters ends both workloads and checks what they were told.
func finishRegisters(t *testing.T, c *harness.Cluster, r *registers, l *harness.Load) {
	t.Helper()
	operations := r.finish()
	finish(t, c, l, 100)
	history := c.SameHistory(c.Settle())
	settled := settle(t, operations, history)
	checkOrder(t, settled, history)
	checkLinearizable(t, settled)
	t.Logf("evidence: %d operations on registers, %d of them with an unknown end, linearizable",
		len(operations), unknown(operations))
}

func unknown(operations []operation) int {
	count := 0
	for _, o := range operations {
		if o.back == forever {
			count++
		}
	}
	return count
}

// TestClusterNemesis changes the network and kills members at random, without waiting for anything.
func TestClusterNemesis(t *testing.T) {
	t.Parallel()
	strokes := harness.EnvInt(t, "COMPAT_STROKES", 8)
	eachMix(t, func(t *testing.T, m mix) { nemesis(t, m, strokes) }, "QQQ")
}

func nemesis(t *testing.T, m mix, strokes int) {
	seed := seedOf(t)
	random := rand.New(rand.NewSource(seed))
	c := harness.LaunchCluster(t, true, m.kinds(), "--snapshot-count=200", "--snapshot-catchup-entries=50")
	l := startPatientLoad(t, c, 3, seed, 2*time.Minute) // the majority may be gone for long
	r := startRegisters(c, seed)
	var dead []*harness.Member
	for range strokes {
		a, b := c.Members[random.Intn(len(c.Members))], c.Members[random.Intn(len(c.Members))]
		switch n := random.Intn(10); {
		case n < 2:
			c.Net.Isolate(a, []harness.Link{cut, hold}[random.Intn(2)])
		case n < 5:
			c.Net.Set(a, b, []harness.Link{cut, hold, {Delay: 300 * time.Millisecond}, {Loss: 0.2}}[random.Intn(4)])
		case n < 7:
			c.Net.Heal()
		case n < 9 && a.Running():
			a.Kill()
			dead = append(dead, a)
		default:
			for _, m := range dead {
				if err := m.Spawn(); err != nil {
					t.Fatal(err)
				}
			}
			dead = nil
		}
		time.Sleep(time.Duration(random.Intn(1500)) * time.Millisecond)
	}
	c.Net.Heal()
	for _, m := range c.Members {
		if !m.Running() {
			if err := m.Spawn(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, m := range c.Members {
		if err := m.WaitReady(harness.StartTimeout); err != nil {
			t.Fatalf("%s, %s: %v\n%s", m.Name, m.Kind, err, m.LogTail(40))
		}
	}
	if err := r.live(c, c.Members, faultWrites, faultMax); err != nil {
		t.Fatal(err)
	}
	finishRegisters(t, c, r, l)
	t.Logf("evidence: %s: %s", m, fmt.Sprintf("%d random strokes, seed %d", strokes, seed))
}
