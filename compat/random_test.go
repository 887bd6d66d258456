package compat

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// follower keeps what several watchers on one stream have seen.
type follower struct {
	stream   pb.Watch_WatchClient
	mu       sync.Mutex
	moved    *sync.Cond
	events   map[int64][]*mvccpb.Event
	progress int64
	problems []string
	ended    error
}

func follow(ctx context.Context, conn *grpc.ClientConn, creates ...*pb.WatchCreateRequest) (*follower, error) {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	f := &follower{stream: stream, events: map[int64][]*mvccpb.Event{}}
	f.moved = sync.NewCond(&f.mu)
	for _, q := range creates {
		err := stream.Send(&pb.WatchRequest{
			RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: proto.Clone(q).(*pb.WatchCreateRequest)}})
		if err != nil {
			return nil, err
		}
	}
	go f.receive()
	return f, nil
}

func (f *follower) receive() {
	for {
		p, err := f.stream.Recv()
		f.mu.Lock()
		if err != nil {
			f.ended = err
			f.moved.Broadcast()
			f.mu.Unlock()
			return
		}
		if p.Canceled {
			f.problems = append(f.problems, fmt.Sprintf("watcher %d was cancelled: %s (compacted %d)",
				p.WatchId, p.CancelReason, p.CompactRevision))
		}
		if p.WatchId == -1 {
			f.progress = p.Header.Revision
		}
		seen := f.events[p.WatchId]
		for i, e := range p.Events {
			if i == 0 && len(seen) > 0 && seen[len(seen)-1].Kv.ModRevision >= e.Kv.ModRevision {
				f.problems = append(f.problems, fmt.Sprintf(
					"watcher %d: revision %d was split or repeated", p.WatchId, e.Kv.ModRevision))
			}
			if e.Kv.ModRevision > p.Header.Revision {
				f.problems = append(f.problems, fmt.Sprintf("watcher %d: header %d below event %d",
					p.WatchId, p.Header.Revision, e.Kv.ModRevision))
			}
			seen = append(seen, e)
		}
		f.events[p.WatchId] = seen
		f.moved.Broadcast()
		f.mu.Unlock()
	}
}

// catchUp waits until all watchers have seen everything up to a revision.
func (f *follower) catchUp(revision int64) error {
	ask := func() {
		_ = f.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
			ProgressRequest: &pb.WatchProgressRequest{}}})
	}
	ask()
	again := time.NewTicker(200 * time.Millisecond) // a request is dropped while a watcher lags
	defer again.Stop()
	done := make(chan struct{})
	defer close(done)
	deadline := time.Now().Add(30 * time.Second)
	go func() {
		for {
			select {
			case <-again.C:
				ask()
				f.moved.Broadcast()
			case <-done:
				return
			}
		}
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.progress < revision && f.ended == nil && time.Now().Before(deadline) {
		f.moved.Wait()
	}
	if f.progress < revision {
		return fmt.Errorf("watchers are at %d, not at %d (%v)", f.progress, revision, f.ended)
	}
	return nil
}

// lockstep sends every request to both servers and compares the answers.
type lockstep struct {
	t      *testing.T
	ctx    context.Context
	pair   pair
	conns  [2]*grpc.ClientConn
	follow [2]*follower
	n      int
}

func (l *lockstep) connect() {
	for k, m := range l.pair {
		conn, err := m.Dial()
		if err != nil {
			l.t.Fatal(err)
		}
		l.conns[k] = conn
	}
}

// one sends a request to one server.
func (l *lockstep) one(k harness.Kind, q proto.Message) (proto.Message, error) {
	conn, ctx := l.conns[k], l.ctx
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	switch q := q.(type) {
	case *pb.PutRequest:
		return kv.Put(ctx, q)
	case *pb.DeleteRangeRequest:
		return kv.DeleteRange(ctx, q)
	case *pb.RangeRequest:
		return kv.Range(ctx, q)
	case *pb.TxnRequest:
		return kv.Txn(ctx, q)
	case *pb.CompactionRequest:
		return kv.Compact(ctx, q)
	case *pb.LeaseGrantRequest:
		return lease.LeaseGrant(ctx, q)
	case *pb.LeaseRevokeRequest:
		return lease.LeaseRevoke(ctx, q)
	case *pb.HashKVRequest:
		return pb.NewMaintenanceClient(conn).HashKV(ctx, q)
	case *pb.LeaseTimeToLiveRequest:
		p, err := lease.LeaseTimeToLive(ctx, q)
		if err == nil {
			p.TTL = min(p.TTL, 1)
			sort.Slice(p.Keys, func(i, j int) bool { return string(p.Keys[i]) < string(p.Keys[j]) })
		}
		return p, err
	}
	panic(fmt.Sprintf("no call for %T", q))
}

// both sends a request to both servers, and returns real etcd's answer when ours is the same.
func (l *lockstep) both(q proto.Message) (proto.Message, error) {
	l.t.Helper()
	l.n++
	type answer struct {
		p    proto.Message
		err  error
		text string
	}
	answers := both(func(k harness.Kind) answer {
		p, err := l.one(k, q)
		text := harness.Error(err)
		if err == nil {
			text = (&harness.Normal{Names: map[uint64]string{}}).Message(withoutMember(p))
		}
		return answer{p, err, text}
	})
	for _, m := range l.pair {
		if !m.Running() {
			l.t.Fatalf("request %d: %s ended: %s\n%s\n%s", l.n, m.Kind, m.ExitText(),
				(&harness.Normal{}).Message(q), m.LogTail(40))
		}
	}
	if answers[0].text != answers[1].text {
		l.t.Fatalf("request %d: %s\n%s\n%s", l.n, q.ProtoReflect().Descriptor().Name(),
			(&harness.Normal{}).Message(q), sideBySide(answers[0].text, answers[1].text))
	}
	return answers[0].p, answers[0].err
}

// withoutMember clears the member id of the header, the one thing in which both must differ.
func withoutMember(p proto.Message) proto.Message {
	if h, ok := p.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader() != nil {
		h.GetHeader().MemberId = 0
	}
	return p
}

var randomWatchers = []*pb.WatchCreateRequest{
	{WatchId: 1, Key: zero, RangeEnd: zero, StartRevision: 1},
	{WatchId: 2, Key: zero, RangeEnd: zero, StartRevision: 1, PrevKv: true, Fragment: true},
	{WatchId: 3, Key: b("b/"), RangeEnd: b("d0"), StartRevision: 1, PrevKv: true,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}},
	{WatchId: 4, Key: b("c/3"), RangeEnd: zero, StartRevision: 1,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}},
	{WatchId: 5, Key: b("a/1"), StartRevision: 1, PrevKv: true},
}

// compareWatchers waits until both sides have seen a revision and compares what they saw.
func compareWatchers(t *testing.T, followers [2]*follower, revision int64) {
	t.Helper()
	for k, f := range followers {
		if err := f.catchUp(revision); err != nil {
			t.Fatalf("%s: %v", harness.Kind(k), err)
		}
		f.mu.Lock()
		for _, problem := range f.problems {
			t.Errorf("%s: %s", harness.Kind(k), problem)
		}
		f.mu.Unlock()
	}
	normal := &harness.Normal{}
	theirs, ours := followers[0].events, followers[1].events
	for id, events := range theirs {
		if len(events) != len(ours[id]) {
			t.Errorf("watcher %d: %d events from etcd, %d from quorate", id, len(events), len(ours[id]))
		}
		for i := range min(len(events), len(ours[id])) {
			if !proto.Equal(events[i], ours[id][i]) {
				t.Fatalf("watcher %d, event %d\n%s", id, i,
					sideBySide(normal.Message(events[i]), normal.Message(ours[id][i])))
			}
		}
	}
}

// replayWatchers opens watchers in the past on both and compares them.
func (l *lockstep) replayWatchers(from, to int64) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	var creates []*pb.WatchCreateRequest
	for _, q := range randomWatchers {
		q = proto.Clone(q).(*pb.WatchCreateRequest)
		q.StartRevision = from
		creates = append(creates, q)
	}
	var followers [2]*follower
	for k := range followers {
		f, err := follow(ctx, l.conns[k], creates...)
		if err != nil {
			l.t.Fatal(err)
		}
		followers[k] = f
	}
	compareWatchers(l.t, followers, to)
}

// hashes compares HashKV at up to n revisions, and everything that is readable.
func (l *lockstep) hashes(g *generator, n int64) {
	l.t.Helper()
	from := max(1, g.compacted)
	if !g.steady {
		from++
	}
	step := max(1, (g.revision-from)/n)
	for at := from; at <= g.revision; at += step {
		if _, err := l.both(&pb.HashKVRequest{Revision: at}); err != nil {
			l.t.Fatalf("HashKV at %d: %v", at, err)
		}
	}
	for _, q := range []*pb.RangeRequest{
		{}, {KeysOnly: true}, {Revision: from}, {Revision: (from + g.revision) / 2},
		{SortOrder: pb.RangeRequest_DESCEND},
	} {
		if _, err := l.both(all(q)); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, lease := range g.leases {
		if _, err := l.both(&pb.LeaseTimeToLiveRequest{ID: lease, Keys: true}); err != nil {
			l.t.Fatal(err)
		}
	}
}

// learn takes over what the answer says about the servers' state.
func (l *lockstep) learn(g *generator, q, p proto.Message, err error) {
	if err != nil {
		return
	}
	if h, ok := p.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader() != nil {
		g.revision = max(g.revision, h.GetHeader().Revision)
	}
	if q, ok := q.(*pb.CompactionRequest); ok {
		// Whether etcd remembers the hash of a compaction depends on its having finished, and on the
		// one before having finished in time.
		g.compacted, g.steady, g.physical = q.Revision, q.Physical && g.physical, q.Physical
	}
}

// TestRandomHistory sends the same random requests to both servers and compares every answer, the
// watch streams, and HashKV at many revisions; then both are restarted, one after a kill, and
// at last each product goes on with the other's directory.
func TestRandomHistory(t *testing.T) {
	seed := time.Now().UnixNano() % 1_000_000
	if text := os.Getenv("COMPAT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	ops := harness.EnvInt(t, "COMPAT_OPS", 3000)
	t.Logf("again: COMPAT_SEED=%d COMPAT_OPS=%d go test -run TestRandomHistory .", seed, ops)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := &lockstep{t: t, ctx: ctx, pair: launchPair(t)}
	l.connect()
	for k := range l.follow {
		f, err := follow(ctx, l.conns[k], randomWatchers...)
		if err != nil {
			t.Fatal(err)
		}
		l.follow[k] = f
	}
	g := newGenerator(seed)
	g.revision = 1
	for i := range ops {
		q := g.request()
		if _, compacts := q.(*pb.CompactionRequest); compacts {
			// Watchers that lag behind a compaction may miss a prev_kv: let them arrive first.
			compareWatchers(t, l.follow, g.revision)
		}
		p, err := l.both(q)
		l.learn(g, q, p, err)
		if i%500 == 499 {
			l.replayWatchers(max(1, g.compacted), g.revision)
		}
	}
	compareWatchers(t, l.follow, g.revision)
	l.hashes(g, 300)
	l.replayWatchers(max(1, g.compacted), g.revision)
	if t.Failed() {
		return
	}
	t.Logf("revision %d, compacted %d; now restarting", g.revision, g.compacted)
	g.steady = false // what a member remembers of its compactions ends with the process
	l.restart(func(m *harness.Member, k harness.Kind) error {
		if k == harness.Ours {
			m.Kill()
			return nil
		}
		return m.Stop()
	})
	l.hashes(g, 100)
	for range ops / 10 {
		q := g.request()
		if _, compacts := q.(*pb.CompactionRequest); !compacts {
			p, err := l.both(q)
			l.learn(g, q, p, err)
		}
	}
	l.restart(func(m *harness.Member, _ harness.Kind) error {
		err := m.Stop()
		m.Kind = m.Kind.Other()
		return err
	})
	l.hashes(g, 100)
	l.replayWatchers(max(1, g.compacted), g.revision)
	if !t.Failed() {
		t.Logf("evidence: seed %d: %d random requests up to revision %d, compacted at %d: answers, HashKV "+
			"and watch streams equal, also after a kill and after an exchange of the directories",
			seed, ops+ops/10, g.revision, g.compacted)
	}
}

// restart stops both, as told, and starts them again.
func (l *lockstep) restart(stop func(*harness.Member, harness.Kind) error) {
	l.t.Helper()
	for k, err := range both(func(k harness.Kind) error {
		if err := stop(l.pair[k], k); err != nil {
			return err
		}
		return l.pair[k].Start()
	}) {
		if err != nil {
			l.t.Fatalf("%s: %v", harness.Kind(k), err)
		}
	}
	l.connect()
}
