package compat

import (
	"context"
	"math/rand"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// TestMembershipChanges changes the membership at random, again and again, under load: members of each
// product of the mix come as voters and as learners, move to other addresses, are killed, and go, the
// leader among them.
func TestMembershipChanges(t *testing.T) {
	changes := harness.EnvInt(t, "COMPAT_CHANGES", 6)
	eachMix(t, func(t *testing.T, m mix) { membershipChanges(t, m, changes) }, "EEE", "6EE")
}

func membershipChanges(t *testing.T, m mix, changes int) {
	seed := seedOf(t)
	r := rand.New(rand.NewSource(seed))
	flags := []string{"--snapshot-count=300", "--snapshot-catchup-entries=50"}
	if changes < 10 { // it demands five quiet seconds before a member comes
		flags = append(flags, "--strict-reconfig-check=false")
	}
	c := harness.LaunchCluster(t, true, m.kinds(), flags...)
	l := startLoad(t, c, 4, seed)
	l.GiveUp = time.Minute
	done := map[string]int{}
	for change := range changes {
		progress(t, l, 50)
		what := changeMembership(t, c, r, m.kinds()[r.Intn(len(m))])
		done[what]++
		t.Logf("%d: %s", change, what)
		if t.Failed() {
			t.FailNow()
		}
	}
	progress(t, l, 50)
	finish(t, c, l, 100)
	t.Logf("evidence: %s: %d random changes under load, seed %d: %v", m, changes, seed, done)
	restartAll(t, c)
}

// changeMembership makes one random change and says which.
func changeMembership(t *testing.T, c *harness.Cluster, r *rand.Rand, kind harness.Kind) string {
	t.Helper()
	some := c.Members[r.Intn(len(c.Members))]
	n := r.Intn(100)
	switch {
	case len(c.Members) > 4 || len(c.Members) > 3 && n < 40:
		if r.Intn(3) == 0 {
			some = c.WaitLeader()
			c.Remove(some)
			return "the leader is removed"
		}
		c.Remove(some)
		return "a member is removed"
	case n < 55:
		c.Join(kind, false)
		return "a voter joins"
	case n < 75:
		joined := c.Join(kind, true)
		c.Promote(joined)
		if err := joined.WaitReady(harness.StartTimeout); err != nil {
			t.Fatalf("%s, promoted: %v\n%s", joined.Kind, err, joined.LogTail(20))
		}
		return "a learner joins and is promoted"
	case n < 82:
		c.Remove(c.Join(kind, true))
		return "a learner joins and is removed"
	case n < 92:
		id := c.MustID(some)
		if err := c.Net.Attach(some); err != nil {
			t.Fatal(err)
		}
		c.Change(func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.MemberUpdate(ctx, id, []string{some.Advertise})
			return err
		})
		return "a member gets another address"
	default:
		some.Kill()
		c.Start(some)
		return "a member is killed and starts"
	}
}

// TestMembershipRefusals asks for changes that must be refused, of real etcd and of each mix: code and
// text of every answer are the same.
func TestMembershipRefusals(t *testing.T) {
	eachMix(t, func(t *testing.T, m mix) {
		said := [2][]string{}
		t.Run("side by side", func(t *testing.T) {
			for i, one := range []mix{"EEE", m} {
				t.Run(string(one), func(t *testing.T) {
					t.Parallel()
					said[i] = refusals(t, one)
				})
			}
		})
		theirs, ours := joinLines(said[0]), joinLines(said[1])
		if theirs != ours {
			t.Errorf("etcd and %s refuse differently\n%s", m, sideBySide(theirs, ours))
		}
		t.Logf("%s", ours)
	}, "EEE")
}

// refusals logs what a cluster answers.
func refusals(t *testing.T, m mix) []string {
	c := harness.LaunchCluster(t, false, m.kinds())
	r := &refuser{t: t, c: c, leader: c.WaitLeader()}
	r.follower = c.Others(r.leader)[0]
	r.wrongChanges()
	r.learner()
	r.fewMembers()
	return r.said
}

// refuser asks and logs.
type refuser struct {
	t                *testing.T
	c                *harness.Cluster
	leader, follower *harness.Member
	said             []string
}

// ask logs what comes of a call through a member.
func (r *refuser) ask(what string, m *harness.Member, call func(context.Context, *clientv3.Client) error) {
	r.t.Helper()
	client := r.c.ClientOf(m)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	r.said = append(r.said, what+": "+harness.Error(call(ctx, client)))
}

func add(urls ...string) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberAdd(ctx, urls)
		return err
	}
}

func addLearner(urls ...string) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberAddAsLearner(ctx, urls)
		return err
	}
}

func remove(id uint64) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberRemove(ctx, id)
		return err
	}
}

func update(id uint64, urls ...string) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberUpdate(ctx, id, urls)
		return err
	}
}

func promote(id uint64) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberPromote(ctx, id)
		return err
	}
}

func moveLeader(id uint64) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MoveLeader(ctx, id)
		return err
	}
}

func (r *refuser) wrongChanges() {
	leader, follower := r.c.MustID(r.leader), r.c.MustID(r.follower)
	for _, through := range []*harness.Member{r.leader, r.follower} {
		place := "through the leader, "
		if through == r.follower {
			place = "through a follower, "
		}
		r.ask(place+"add an address that is there", through, add(r.follower.PeerURL()))
		r.ask(place+"add one that is there and a new one", through, add("http://127.0.0.1:9", r.leader.PeerURL()))
		r.ask(place+"add a learner at an address that is there", through, addLearner(r.leader.PeerURL()))
		r.ask(place+"add without address", through, add())
		r.ask(place+"add an empty address", through, add(""))
		r.ask(place+"add no URL", through, add("127.0.0.1:9"))
		r.ask(place+"add a URL with a path", through, add("http://127.0.0.1:9/path"))
		r.ask(place+"add a URL without port", through, add("http://127.0.0.1"))
		r.ask(place+"add another scheme", through, add("ftp://127.0.0.1:9"))
		r.ask(place+"remove nobody", through, remove(0))
		r.ask(place+"remove a stranger", through, remove(77))
		r.ask(place+"update a stranger", through, update(77, "http://127.0.0.1:9"))
		r.ask(place+"update without address", through, update(follower))
		r.ask(place+"update to no URL", through, update(follower, "there"))
		r.ask(place+"update to another's address", through, update(follower, r.leader.PeerURL()))
		r.ask(place+"promote a stranger", through, promote(77))
		r.ask(place+"promote a voter", through, promote(follower))
		r.ask(place+"give leadership to a stranger", through, moveLeader(77))
		r.ask(place+"give leadership to nobody", through, moveLeader(0))
		r.ask(place+"give leadership to who has it", through, moveLeader(leader))
	}
}

// learner asks for what no learner may do, before and after it has started.
func (r *refuser) learner() {
	t, c := r.t, r.c
	m := c.Join(r.leader.Kind, true)
	id := c.MustID(m)
	r.ask("add a second learner", r.leader, addLearner("http://127.0.0.1:9"))
	r.ask("give leadership to a learner", r.leader, moveLeader(id))
	calls := []struct {
		what string
		call func(context.Context, *clientv3.Client) error
	}{
		{"put", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Put(ctx, "a", "1")
			return err
		}},
		{"get", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Get(ctx, "a")
			return err
		}},
		{"serializable get", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Get(ctx, "a", clientv3.WithSerializable())
			return err
		}},
		{"txn", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Txn(ctx).Then(clientv3.OpGet("a")).Commit()
			return err
		}},
		{"serializable txn", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Txn(ctx).Then(clientv3.OpGet("a", clientv3.WithSerializable())).Commit()
			return err
		}},
		{"delete", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Delete(ctx, "a")
			return err
		}},
		{"compact", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Compact(ctx, 1)
			return err
		}},
		{"grant", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Grant(ctx, 10)
			return err
		}},
		{"leases", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Leases(ctx)
			return err
		}},
		{"time to live", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.TimeToLive(ctx, 7)
			return err
		}},
		{"watch", func(ctx context.Context, client *clientv3.Client) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			p, ok := <-client.Watch(ctx, "a", clientv3.WithCreatedNotify())
			if !ok {
				return ctx.Err()
			}
			return p.Err()
		}},
		{"list members", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.MemberList(ctx)
			return err
		}},
		{"list members, serializable", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.MemberList(ctx, clientv3.WithSerializable())
			return err
		}},
		{"add a member", add("http://127.0.0.1:9")},
		{"status", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Status(ctx, m.Endpoint())
			return err
		}},
		{"hash", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.HashKV(ctx, m.Endpoint(), 0)
			return err
		}},
		{"alarms", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.AlarmList(ctx)
			return err
		}},
		{"defragment", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Defragment(ctx, m.Endpoint())
			return err
		}},
		{"snapshot", func(ctx context.Context, client *clientv3.Client) error {
			reader, err := client.Snapshot(ctx)
			if err != nil {
				return err
			}
			defer reader.Close()
			_, err = reader.Read(make([]byte, 10))
			return err
		}},
		{"user list", func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.UserList(ctx)
			return err
		}},
		{"move leader", moveLeader(id)},
	}
	for _, one := range calls {
		r.ask("asked of a learner: "+one.what, m, one.call)
	}
	c.Promote(m)
	r.ask("promote it again", r.leader, promote(id))
	c.Remove(m)
	r.ask("remove it again", r.leader, remove(id))
	r.ask("update who was removed", r.leader, update(id, "http://127.0.0.1:9"))
	r.ask("promote who was removed", r.leader, promote(id))
	// A learner that never starts.
	url := "http://127.0.0.1:9"
	var silent uint64
	c.Change(func(ctx context.Context, client *clientv3.Client) error {
		p, err := client.MemberAddAsLearner(ctx, []string{url})
		if err == nil {
			silent = p.Member.ID
		}
		return err
	})
	r.ask("promote a learner that never started", r.leader, promote(silent))
	r.ask("promote it through a follower", r.follower, promote(silent))
	r.ask("add its address again", r.leader, add(url))
	c.Change(remove(silent))
	if t.Failed() {
		t.FailNow()
	}
}

// fewMembers asks while one and while two of three are gone.
func (r *refuser) fewMembers() {
	t, c := r.t, r.c
	gone := r.follower
	goneID, leaderID := c.MustID(gone), c.MustID(r.leader)
	last := c.Others(r.leader, gone)[0]
	lastID := c.MustID(last)
	c.MoveLeader(r.leader)
	gone.Kill()
	// Until the leader has noticed.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		client := c.ClientOf(r.leader)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := add("http://127.0.0.1:9")(ctx, client)
		cancel()
		client.Close()
		if err != nil {
			break
		}
		t.Fatal("a member can be added while one of three is gone")
	}
	r.ask("one of three is gone: add a voter", r.leader, add("http://127.0.0.1:9"))
	r.ask("one of three is gone: add a learner", r.leader, addLearner("http://127.0.0.1:9"))
	r.ask("one of three is gone: remove one that is there", r.leader, remove(lastID))
	r.ask("one of three is gone: give it leadership", r.leader, moveLeader(goneID))
	last.Kill()
	withLeader := func(ctx context.Context) context.Context { return clientv3.WithRequireLeader(ctx) }
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if status, err := r.leader.Status(); err == nil && status.Leader == 0 {
			slices.Sort(status.Errors)
			r.said = append(r.said, "status: "+joinLines(status.Errors))
			break
		}
	}
	r.ask("two of three are gone: put", r.leader, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Put(ctx, "a", "1")
		return err
	})
	r.ask("two of three are gone: get", r.leader, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Get(ctx, "a")
		return err
	})
	r.ask("two of three are gone: serializable get", r.leader, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Get(ctx, "a", clientv3.WithSerializable())
		return err
	})
	r.ask("two of three are gone: put that requires a leader", r.leader,
		func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.Put(withLeader(ctx), "a", "1")
			return err
		})
	r.ask("two of three are gone: watch that requires a leader", r.leader,
		func(ctx context.Context, client *clientv3.Client) error {
			p, ok := <-client.Watch(withLeader(ctx), "a", clientv3.WithCreatedNotify())
			if !ok {
				return ctx.Err()
			}
			return p.Err()
		})
	r.ask("two of three are gone: keep a lease alive", r.leader,
		func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.KeepAliveOnce(ctx, 7)
			return err
		})
	r.ask("two of three are gone: list members", r.leader,
		func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.MemberList(ctx, clientv3.WithSerializable())
			return err
		})
	r.ask("two of three are gone: give leadership away", r.leader, moveLeader(lastID))
	r.ask("two of three are gone: remove one", r.leader, remove(leaderID))
	c.Start(gone, last)
	c.Agree(5)
}
