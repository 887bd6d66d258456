package compat

import (
	"context"
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate/compat/harness"
)

// state describes everything a client can learn about a member's data: identities, every key,
// HashKV at many revisions, leases, alarms, members. Two products on the same directory must agree.
func state(t *testing.T, m *harness.Member) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var out strings.Builder
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v\nso far:\n%s\n%s", m.Kind, err, out.String(), m.LogTail(20))
		}
	}
	kv, lease, maint := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)
	normal := &harness.Normal{Text: strings.NewReplacer()}
	show := func(p any) { fmt.Fprintf(&out, "%v\n", p) }

	everything, err := kv.Range(ctx, all(&pb.RangeRequest{}))
	must(err)
	h := everything.Header
	show(fmt.Sprintf("cluster %x member %x revision %d", h.ClusterId, h.MemberId, h.Revision))
	for _, one := range everything.Kvs {
		show(normal.Message(one))
	}
	// Not HashKV(0): after a compaction at 0 etcd remembers a hash for it.
	hash, err := maint.HashKV(ctx, &pb.HashKVRequest{Revision: h.Revision})
	must(err)
	compacted := hash.CompactRevision
	show(fmt.Sprintf("hash %d compacted %d", hash.Hash, compacted))
	// The hash of the compacted revision itself may be remembered from before; see HashKV.
	step := max(1, (h.Revision-compacted)/100)
	for at := max(1, compacted+1); at <= h.Revision; at += step {
		hash, err := maint.HashKV(ctx, &pb.HashKVRequest{Revision: at})
		must(err)
		show(fmt.Sprintf("hash at %d: %d", at, hash.Hash))
		old, err := kv.Range(ctx, all(&pb.RangeRequest{Revision: at, CountOnly: true}))
		must(err)
		show(old.Count)
	}
	leases, err := lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	must(err)
	sort.Slice(leases.Leases, func(i, j int) bool { return leases.Leases[i].ID < leases.Leases[j].ID })
	for _, one := range leases.Leases {
		p, err := lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: one.ID, Keys: true})
		must(err)
		sort.Slice(p.Keys, func(i, j int) bool { return string(p.Keys[i]) < string(p.Keys[j]) })
		show(fmt.Sprintf("lease %d of %d: %q", p.ID, p.GrantedTTL, p.Keys))
	}
	alarms, err := maint.Alarm(ctx, &pb.AlarmRequest{})
	must(err)
	for _, alarm := range alarms.Alarms {
		show(fmt.Sprintf("alarm %x %s", alarm.MemberID, alarm.Alarm))
	}
	members, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	must(err)
	for _, member := range members.Members {
		show(fmt.Sprintf("member %x %s %v %v", member.ID, member.Name, member.PeerURLs, member.ClientURLs))
	}
	return out.String()
}

// work changes a member's data in every way: puts, deletions, transactions, leases, alarms,
// compactions. No write is under way when it returns.
func work(t *testing.T, m *harness.Member, r *rand.Rand, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l := &lockstep{t: t, ctx: ctx}
	l.conns[0] = conn
	g := newGenerator(0)
	g.Rand, g.next = r, 1000+r.Int63n(1<<40)
	for range n {
		q := g.request()
		switch q.(type) {
		case *pb.RangeRequest, *pb.HashKVRequest, *pb.LeaseTimeToLiveRequest:
			continue
		}
		p, err := l.one(0, q)
		l.learn(g, q, p, err)
	}
	// While a compaction goes on in the background, the hash of a revision at which no key lives depends on
	// how far it has come.
	if q := max(g.compacted+1, g.revision-60); q <= g.revision {
		if _, err := l.one(0, &pb.CompactionRequest{Revision: q, Physical: true}); err != nil {
			t.Fatal(err)
		}
	}
	// The hash of a revision that was just compacted is remembered, and only until a restart.
	if _, err := l.one(0, &pb.PutRequest{Key: b("a"), Value: b("last")}); err != nil {
		t.Fatal(err)
	}
	maint := pb.NewMaintenanceClient(conn)
	if _, err := maint.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE,
		MemberID: uint64(r.Intn(1000) + 1), Alarm: pb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
	alarms, err := maint.Alarm(ctx, &pb.AlarmRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, alarm := range alarms.Alarms {
		if len(alarms.Alarms)-i > 1 || r.Intn(2) == 0 {
			if _, err := maint.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE,
				MemberID: alarm.MemberID, Alarm: alarm.Alarm}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// disarm takes back all alarms, so that the next round can write.
func disarm(t *testing.T, m *harness.Member) {
	t.Helper()
	client := m.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, alarm := range alarms.Alarms {
		if _, err := pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm}); err != nil {
			t.Fatal(err)
		}
	}
}
