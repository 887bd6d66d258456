package compat

import (
	"os"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"quorate/compat/harness"
)

// RaftIndex is the newest entry of the member's log.
func (c *C) RaftIndex() uint64 {
	p, err := c.Maint.Status(c.Ctx, &pb.StatusRequest{})
	c.Must(err)
	return p.RaftIndex
}

// deadly sends a transaction that every real member would die of, again at each start: it must be
// answered, and it must not be in the log, since other members may be real.
func (c *C) deadly(q *pb.TxnRequest) {
	before := c.RaftIndex()
	_, err := c.KV.Txn(c.Ctx, q)
	if got := harness.Error(err); got != harness.Error(rpctypes.ErrGRPCKeyNotFound) {
		c.Fail("answered with %s", got)
	}
	if after := c.RaftIndex(); after != before {
		c.Fail("it is in the log")
	}
}

// TestOursAlone asks what real etcd cannot be asked, because it crashes or never answers.
func TestOursAlone(t *testing.T) {
	if realTwice() {
		t.Skip("real etcd crashes here")
	}
	keepValue := putOp(&pb.PutRequest{Key: b("a"), IgnoreValue: true})
	keepLease := putOp(&pb.PutRequest{Key: b("a"), Value: b("2"), IgnoreLease: true})
	m := harness.Launch(t, harness.Ours)
	for _, one := range []Case{
		{Name: "unknown alarm action", Run: func(c *C) { c.Alarm(9, c.Self, pb.AlarmType_NOSPACE) }},
		{Name: "a put keeps a value that its transaction deletes", Run: func(c *C) {
			c.Put("a=1")
			c.deadly(then(del("a", "\x00"), keepValue))
		}},
		{Name: "a put keeps a lease that its transaction deletes", Run: func(c *C) {
			c.Put("a=1")
			c.deadly(then(del("\x00", "\x00"), sub(then(keepLease))))
		}},
		{Name: "a put keeps a deleted value in the branch that is taken", Run: func(c *C) {
			c.Put("a=1")
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{never()},
				Failure: []*pb.RequestOp{del("a", "\x00"), keepValue}})
		}},
	} {
		t.Run(one.Name, func(t *testing.T) {
			said := runCase(one, m)
			t.Logf("%s", said)
			if strings.Contains(said, "ABORTED") || strings.Contains(said, "Unavailable") || !m.Running() {
				t.Errorf("%s\n%s", said, m.LogTail(10))
			}
		})
	}
	harness.MustStop(t, m)
	harness.MustStart(t, m) // and the log can be replayed
	if said := runCase(Case{Run: func(c *C) { c.Put("a=1"); c.All() }}, m); strings.Contains(said, "ABORTED") {
		t.Error(said)
	}
}

// TestStopWithoutDirectory: a stop that cannot write its files is said, and does not wait for ever.
func TestStopWithoutDirectory(t *testing.T) {
	if realTwice() {
		t.Skip("a promise of ours")
	}
	m := harness.Launch(t, harness.Ours)
	if err := os.RemoveAll(m.Dir); err != nil {
		t.Fatal(err)
	}
	harness.MustStop(t, m)
	if said := m.LastLog(); m.ExitCode() != 1 || !strings.Contains(said, m.Dir+"/member/") {
		t.Errorf("%s\n%s", m.ExitText(), said)
	}
}
