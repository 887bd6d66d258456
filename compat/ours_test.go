package compat

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate/compat/harness"
)

// TestOursAlone asks what real etcd cannot be asked, because it crashes or never answers.
func TestOursAlone(t *testing.T) {
	if realTwice() {
		t.Skip("real etcd crashes here")
	}
	m := harness.Launch(t, harness.Ours)
	for _, one := range []Case{
		{Name: "unknown alarm action", Run: func(c *C) { c.Alarm(9, c.Self, pb.AlarmType_NOSPACE) }},
		{Name: "a put keeps a value that its transaction deletes", Run: func(c *C) {
			c.Put("a=1")
			c.Txn(then(del("a", "\x00"), putOp(&pb.PutRequest{Key: b("a"), IgnoreValue: true})))
		}},
		{Name: "a put keeps a lease that its transaction deletes", Run: func(c *C) {
			c.Put("a=1")
			c.Txn(then(del("\x00", "\x00"), sub(then(
				putOp(&pb.PutRequest{Key: b("a"), Value: b("2"), IgnoreLease: true})))))
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
