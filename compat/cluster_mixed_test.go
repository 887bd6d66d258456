package compat

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// TestClusterMixed sends a random workload through all members of a cluster at once, with leases,
// transactions and compactions, while leadership is moved around; then all members must hold the
// same, at every revision asked.
func TestClusterMixed(t *testing.T) {
	t.Parallel()
	ops := harness.EnvInt(t, "COMPAT_CLUSTER_OPS", 1200)
	eachMix(t, func(t *testing.T, m mix) { mixedTogether(t, m, ops) }, "QQE", "6QE")
}

func mixedTogether(t *testing.T, m mix, ops int) {
	seed := seedOf(t)
	c := harness.LaunchCluster(t, false, m.kinds(), "--snapshot-count=400")
	mixedWork(t, c, seed, ops)
	restartAll(t, c)
}

// TestClusterJoined begins with the first member of the mix, and the others join it under load: as
// voters and as learners that are promoted.
func TestClusterJoined(t *testing.T) {
	t.Parallel()
	ops := harness.EnvInt(t, "COMPAT_CLUSTER_OPS", 800)
	eachMix(t, func(t *testing.T, m mix) { mixedJoined(t, m, ops) }, "EQQ", "QEE")
}

func mixedJoined(t *testing.T, m mix, ops int) {
	seed := seedOf(t)
	kinds := m.kinds()
	c := harness.LaunchCluster(t, false, kinds[:1], "--snapshot-count=200", "--snapshot-catchup-entries=50",
		"--strict-reconfig-check=false") // which demands five quiet seconds before each change
	mixedWork(t, c, seed, ops/2)
	l := startLoad(t, c, 2, seed)
	for i, kind := range kinds[1:] {
		joined := c.Join(kind, i%2 == 0)
		if i%2 == 0 {
			c.Promote(joined)
		}
		progress(t, l, 50)
	}
	finish(t, c, l, 50)
	mixedWork(t, c, seed+1, ops)
	restartAll(t, c)
}

// mixedWork lets one client a member draw requests, beside clients whose leases run out, and moves
// the leadership from member to member.
func mixedWork(t *testing.T, c *harness.Cluster, seed int64, ops int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	// Without any key, the hash of a revision depends on how far a compaction has come.
	if _, err := c.Client().Put(ctx, "anchor", fmt.Sprint(seed)); err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	var sent atomic.Int64
	members := c.Running()
	with36 := false
	for _, m := range members {
		with36 = with36 || m.Kind == harness.Real36
	}
	for i, m := range members {
		workers.Go(func() { drawRequests(ctx, t, m, seed*100+int64(i), ops/len(members), with36, &sent) })
	}
	for i, m := range members {
		client := c.ClientOf(m)
		workers.Go(func() { shortLeases(ctx, t, client, seed*100+int64(i)) })
	}
	moved := 0
	for at := range len(members) * 2 {
		goal := int64(ops * (at + 1) / (len(members)*2 + 1))
		for sent.Load() < goal && ctx.Err() == nil && !t.Failed() {
			time.Sleep(5 * time.Millisecond)
		}
		if t.Failed() {
			break
		}
		if len(members) > 1 {
			c.MoveLeader(members[at%len(members)])
			moved++
		}
	}
	workers.Wait()
	if t.Failed() {
		t.FailNow()
	}
	waitNoShortLeases(t, c)
	revision := c.Agree(200)
	history := c.SameHistory(revision)
	t.Logf("evidence: %d requests through %d members, leadership moved %d times: equal at revision %d, %d events",
		sent.Load(), len(members), moved, revision, len(history))
}

// drawRequests sends random requests through one member. Which error a request meets is a matter of
// what the others do; that it is one of a rightly refused request, or of a change of leaders, is not.
func drawRequests(ctx context.Context, t *testing.T, m *harness.Member, seed int64, n int, with36 bool,
	sent *atomic.Int64) {
	conn, err := m.Dial()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	one := &lockstep{t: t, ctx: ctx}
	one.conns[0] = conn
	g := newGenerator(seed)
	g.next = 1000 + seed<<20
	for range n {
		q := g.request()
		if with36 {
			readNow(q)
		}
		if q, compacts := q.(*pb.CompactionRequest); compacts && g.Intn(2) == 0 {
			q.Revision = max(0, q.Revision-200) // leave some history
		}
		p, err := one.one(0, q)
		if err != nil && !m.Running() {
			t.Errorf("%s %s ended: %s\n%s", m.Name, m.Kind, m.ExitText(), m.LogTail(30))
			return
		}
		if err != nil && !expectedError(err) {
			t.Errorf("%s %s: %s: %s", m.Name, m.Kind, q.ProtoReflect().Descriptor().Name(), harness.Error(err))
			return
		}
		one.learn(g, q, p, err)
		sent.Add(1)
	}
}

// readNow lets a transaction that writes read at no revision of its own. When etcd 3.6 applies what
// another member proposed, it leaves out the reads; one that would have failed (a future or a
// compacted revision) then does not keep the writes from happening, and the members part. Clusters of
// 3.6 alone part in the same way.
func readNow(q proto.Message) {
	txn, ok := q.(*pb.TxnRequest)
	if !ok {
		return
	}
	for _, op := range append(append([]*pb.RequestOp{}, txn.Success...), txn.Failure...) {
		if r := op.GetRequestRange(); r != nil {
			r.Revision = 0
		}
		if nested := op.GetRequestTxn(); nested != nil {
			readNow(nested)
		}
	}
}

func expectedError(err error) bool {
	text := harness.Error(err)
	for _, known := range []string{
		"etcdserver: key not found", "etcdserver: requested lease not found", "etcdserver: lease already exists",
		"etcdserver: mvcc: required revision has been compacted", "etcdserver: leader changed",
		"etcdserver: mvcc: required revision is a future revision", "etcdserver: duplicate key given in txn request",
		"etcdserver: request timed out", "etcdserver: no leader", "etcdserver: value is provided",
		"etcdserver: lease is provided", "etcdserver: key is not provided", "raft proposal dropped",
	} {
		if strings.Contains(text, known) {
			return true
		}
	}
	return false
}

// shortLeases grants leases of two seconds with keys, keeps some alive for a while, and lets all run out.
func shortLeases(ctx context.Context, t *testing.T, client *clientv3.Client, seed int64) {
	r := rand.New(rand.NewSource(seed))
	for i := range 6 {
		granted, err := client.Grant(ctx, 2)
		if err != nil {
			if !expectedError(err) {
				t.Errorf("grant: %v", err)
			}
			continue
		}
		for k := range 1 + r.Intn(3) {
			key := fmt.Sprintf("short/%d/%d/%d", seed, i, k)
			if _, err := client.Put(ctx, key, "lives for a while", clientv3.WithLease(granted.ID)); err != nil &&
				!expectedError(err) {
				t.Errorf("put with a lease: %v", err)
			}
		}
		for range r.Intn(3) {
			if _, err := client.KeepAliveOnce(ctx, granted.ID); err != nil && !expectedError(err) {
				t.Errorf("keep alive: %v", err)
			}
			if p, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys()); err == nil && p.TTL > 2 {
				t.Errorf("a lease of 2 s has %d s left", p.TTL)
			}
			time.Sleep(time.Duration(r.Intn(200)) * time.Millisecond)
		}
	}
}

// waitNoShortLeases waits until the leader has let all short leases run out, keys included.
func waitNoShortLeases(t *testing.T, c *harness.Cluster) {
	t.Helper()
	client := c.Client()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		p, err := client.Get(t.Context(), "short/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && p.Count == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("leases of two seconds did not run out in 20: %v, %v", p, err)
		}
	}
}

// restartAll kills one member and stops the others, starts all again, and compares once more.
func restartAll(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for i, m := range c.Members {
		if i == 0 {
			m.Kill()
		} else {
			harness.MustStop(t, m)
		}
	}
	for _, m := range c.Members {
		if err := harness.CheckDir(m.Dir); err != nil {
			t.Errorf("%s, %s: %v", m.Name, m.Kind, err)
		}
	}
	c.Start(c.Members...)
	c.Agree(50)
}
