package compat

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// seen is what one watcher was sent.
type seen struct {
	ask     *pb.WatchCreateRequest
	from    int64 // the first revision it must show
	events  []*mvccpb.Event
	upTo    int64 // it has shown everything up to here
	created bool
	leaving bool // its cancellation has been sent
}

// wants says whether the watcher must show an event.
func (s *seen) wants(e *mvccpb.Event) bool {
	if e.Kv.ModRevision < s.from {
		return false
	}
	for _, f := range s.ask.Filters {
		if (f == pb.WatchCreateRequest_NOPUT) == (e.Type == mvccpb.Event_PUT) {
			return false
		}
	}
	key, end := s.ask.Key, s.ask.RangeEnd
	switch {
	case len(end) == 0:
		return bytes.Equal(e.Kv.Key, key)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(e.Kv.Key, key) >= 0
	}
	return bytes.Compare(e.Kv.Key, key) >= 0 && bytes.Compare(e.Kv.Key, end) < 0
}

// TestConcurrentWatches writes from many clients while watchers come and go on many streams, some of
// which do not read for a while; each must have been shown exactly its part of the history.
func TestConcurrentWatches(t *testing.T) {
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		t.Run(kind.String(), func(t *testing.T) { concurrentWatches(t, kind) })
	}
}

func concurrentWatches(t *testing.T, kind harness.Kind) {
	m := harness.Launch(t, kind)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	dial := func() *grpc.ClientConn {
		conn, err := m.Dial()
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	var writers, watchers sync.WaitGroup
	written := make(chan struct{}) // closed when all writing is done
	for id := range 6 {
		kv := pb.NewKVClient(dial())
		writers.Go(func() {
			g := newGenerator(int64(id))
			g.revision = 1
			for range harness.EnvInt(t, "COMPAT_OPS", 3000) / 6 {
				var err error
				switch g.Intn(8) {
				case 0:
					_, err = kv.DeleteRange(ctx, g.del())
				case 1:
					q := then(putOp(&pb.PutRequest{Key: g.key(), Value: g.value()}), del("b/", "b0"))
					_, err = kv.Txn(ctx, q)
				default:
					_, err = kv.Put(ctx, &pb.PutRequest{Key: g.key(), Value: g.value()})
				}
				if err != nil && grpcCode(err).String() != "InvalidArgument" {
					t.Errorf("writer: %v", err)
					return
				}
			}
		})
	}
	var mu sync.Mutex
	var all []*seen
	for id := range 12 {
		conn := dial()
		watchers.Go(func() {
			list, err := watchForAWhile(ctx, conn, int64(id), id%4 == 0, written)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, list...)
			if err != nil {
				t.Errorf("stream %d: %v", id, err)
			}
		})
	}
	writers.Wait()
	close(written)
	watchers.Wait()
	full, err := watchHistory(ctx, dial())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, s := range all {
		total += len(s.events)
		// etcd registers a watcher and only then reads the revision for its answer, so what is written in
		// between is shown although the answer's revision says otherwise.
		if n := len(s.events); n > 0 && s.ask.StartRevision == 0 {
			s.from = min(s.from, s.events[0].Kv.ModRevision)
		}
		var want []*mvccpb.Event
		for _, e := range full {
			if s.wants(e) && e.Kv.ModRevision <= s.upTo {
				want = append(want, e)
			}
		}
		if problem := sameEvents(want, s); problem != "" {
			t.Errorf("%s: watcher %v from %d to %d: %s", kind, s.ask, s.from, s.upTo, problem)
		}
	}
	t.Logf("%d revisions, %d watchers, %d events", full[len(full)-1].Kv.ModRevision, len(all), total)
}

func sameEvents(want []*mvccpb.Event, s *seen) string {
	normal := &harness.Normal{}
	for i := range min(len(want), len(s.events)) {
		expected := proto.Clone(want[i]).(*mvccpb.Event)
		// etcd forgets prev_kv as soon as it reads a cancellation, before it answers it.
		if !s.ask.PrevKv || s.leaving && s.events[i].PrevKv == nil {
			expected.PrevKv = nil
		}
		if !proto.Equal(expected, s.events[i]) {
			return fmt.Sprintf("event %d\nexpected %s\nfound    %s", i, normal.Message(expected),
				normal.Message(s.events[i]))
		}
	}
	if len(want) != len(s.events) {
		return fmt.Sprintf("%d events expected, %d found", len(want), len(s.events))
	}
	return ""
}

// watchForAWhile creates and cancels watchers on one stream until the writing is done and every one
// has caught up. A lazy stream is not read at all while others write.
func watchForAWhile(
	ctx context.Context, conn *grpc.ClientConn, seed int64, lazy bool, written <-chan struct{},
) ([]*seen, error) {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	var sending sync.Mutex
	send := func(q *pb.WatchRequest) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(q)
	}
	go func() { // asks again and again: a request is dropped while a watcher lags behind
		for <-written; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			if send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
				ProgressRequest: &pb.WatchProgressRequest{}}}) != nil {
				return
			}
		}
	}()
	g := newGenerator(1000 + seed)
	byID := map[int64]*seen{}
	var all []*seen
	create := func(id int64) error {
		q := &pb.WatchCreateRequest{WatchId: id, PrevKv: g.chance(2), Fragment: g.chance(2)}
		q.Key, q.RangeEnd = g.interval()
		if bytes.Compare(q.Key, q.RangeEnd) >= 0 {
			q.RangeEnd = zero
		}
		if g.chance(2) {
			q.StartRevision = 1 + int64(g.Intn(200))
		}
		if g.chance(3) {
			q.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_FilterType(g.Intn(2))}
		}
		s := &seen{ask: q, from: q.StartRevision}
		byID[id], all = s, append(all, s)
		return send(&pb.WatchRequest{
			RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: q}})
	}
	for id := range int64(6) {
		if err := create(id + 1); err != nil {
			return all, err
		}
	}
	if lazy {
		<-written
	}
	next := int64(7)
	for {
		p, err := stream.Recv()
		if err != nil {
			return all, err
		}
		if p.WatchId == -1 && !p.Created {
			for _, s := range byID {
				if s.created { // else it was asked for after the progress
					s.upTo = p.Header.Revision
				}
			}
			return all, nil
		}
		s := byID[p.WatchId]
		if s == nil {
			return all, fmt.Errorf("an answer for watcher %d, which is cancelled or never was", p.WatchId)
		}
		if p.Created {
			s.created = true
			if s.from == 0 {
				s.from = p.Header.Revision + 1
			}
		}
		if p.Canceled {
			delete(byID, p.WatchId)
			continue
		}
		s.events = append(s.events, p.Events...)
		if n := len(p.Events); n > 0 && !p.Fragment {
			s.upTo = p.Events[n-1].Kv.ModRevision
		}
		if next < 60 && !s.leaving && len(p.Events) > 0 && g.chance(40) {
			q := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
				CancelRequest: &pb.WatchCancelRequest{WatchId: p.WatchId}}}
			s.leaving = true
			if err := send(q); err != nil {
				return all, err
			}
			if err := create(next); err != nil {
				return all, err
			}
			next++
		}
	}
}

// watchHistory is every event since the beginning.
func watchHistory(ctx context.Context, conn *grpc.ClientConn) ([]*mvccpb.Event, error) {
	p, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: b("a")})
	if err != nil {
		return nil, err
	}
	f, err := follow(ctx, conn, &pb.WatchCreateRequest{
		Key: zero, RangeEnd: zero, StartRevision: 1, PrevKv: true})
	if err != nil {
		return nil, err
	}
	if err := f.catchUp(p.Header.Revision); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events[0], nil
}
