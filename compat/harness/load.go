package harness

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// LoadPrefix is before every key that a load writes.
const LoadPrefix = "load/"

// GiveUpAfter is how long an application tries one request, unless it is told otherwise.
const GiveUpAfter = 20 * time.Second

// Load is an application at work: it writes, reads and watches through one Go client, tries again
// what failed, and remembers what it was told. Whatever happens to the members, it must not
// notice more than a delay.
type Load struct {
	Pace    time.Duration // between two requests of one worker
	Attempt time.Duration // of one request
	GiveUp  time.Duration // of one request with all its repetitions

	client *clientv3.Client
	stop   context.CancelFunc
	done   sync.WaitGroup

	acknowledged, reads, retries atomic.Int64
	lastAck                      atomic.Int64 // when, in ns since start
	started                      time.Time
	from                         int64 // the first revision watched

	mu       sync.Mutex
	acks     []Event
	watched  []Event
	seen     int64 // by the watch
	problems []string
	worst    time.Duration // the longest that one request took with its repetitions
	times    []time.Duration
}

// NewLoad opens the client. It follows the membership: it asks for it once a second.
func NewLoad(endpoints []string) (*Load, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		AutoSyncInterval: time.Second, BackoffWaitBetween: 5 * time.Millisecond,
		DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	now, err := client.Get(ctx, LoadPrefix+"end")
	if err != nil {
		client.Close()
		return nil, err
	}
	return &Load{
		Pace: 2 * time.Millisecond, Attempt: 3 * time.Second, GiveUp: GiveUpAfter,
		client: client, from: now.Header.Revision + 1,
	}, nil
}

// Start lets so many workers work until Stop.
func (l *Load) Start(workers int, seed int64) {
	ctx, cancel := context.WithCancel(context.Background())
	l.stop, l.started = cancel, time.Now()
	l.done.Go(func() { l.watch(ctx) })
	for id := range workers {
		l.done.Go(func() { l.work(ctx, id, rand.New(rand.NewSource(seed*1000+int64(id)))) })
	}
}

// Acknowledged counts the writes that were answered so far.
func (l *Load) Acknowledged() int64 { return l.acknowledged.Load() }

// SinceAck is how long no write was answered.
func (l *Load) SinceAck() time.Duration {
	return time.Since(l.started) - time.Duration(l.lastAck.Load())
}

// WaitFor waits until n more writes were answered.
func (l *Load) WaitFor(n int64, timeout time.Duration) error {
	goal := l.acknowledged.Load() + n
	for deadline := time.Now().Add(timeout); l.acknowledged.Load() < goal; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d writes in %s", n-(goal-l.acknowledged.Load()), n, timeout)
		}
	}
	return nil
}

func (l *Load) problem(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.problems) < 20 {
		l.problems = append(l.problems, fmt.Sprintf(format, args...))
	}
}

// watch follows all keys of the load. The client resumes a watch on another member by itself; what
// must hold is that nothing is missing, nothing comes twice and nothing out of order.
func (l *Load) watch(ctx context.Context) {
	for p := range l.client.Watch(ctx, LoadPrefix, clientv3.WithPrefix(), clientv3.WithRev(l.from)) {
		if err := p.Err(); err != nil && ctx.Err() == nil {
			l.problem("the watch ended: %v", err)
			return
		}
		l.mu.Lock()
		for i, e := range p.Events {
			revision := e.Kv.ModRevision
			if revision < l.seen || i == 0 && revision == l.seen {
				l.problems = append(l.problems,
					fmt.Sprintf("the watch saw revision %d after %d", revision, l.seen))
			}
			l.seen = revision
			l.watched = append(l.watched, Event{revision, e.Type == clientv3.EventTypeDelete,
				string(e.Kv.Key), string(e.Kv.Value), e.Kv.Lease, e.Kv.Version})
		}
		l.mu.Unlock()
	}
	if ctx.Err() == nil {
		l.problem("the watch ended without a word")
	}
}

// try repeats one request until it is answered; it must be one that may happen twice.
func (l *Load) try(ctx context.Context, what string, request func(context.Context) (int64, error)) (int64, bool) {
	begun := time.Now()
	for first := true; ; first = false {
		if !first {
			l.retries.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
		attempt, cancel := context.WithTimeout(ctx, l.Attempt)
		revision, err := request(attempt)
		cancel()
		if err == nil {
			took := time.Since(begun)
			l.mu.Lock()
			l.worst = max(l.worst, took)
			if len(l.times) < 1_000_000 {
				l.times = append(l.times, took)
			}
			l.mu.Unlock()
			return revision, true
		}
		if ctx.Err() != nil {
			return 0, false
		}
		if !repeatable(err) {
			l.problem("%s failed: %v", what, err)
			return 0, false
		}
		if time.Since(begun) > l.GiveUp {
			l.problem("%s was not answered in %s: %v", what, l.GiveUp, err)
			return 0, false
		}
	}
}

// repeatable errors are those after which an application tries again: a member went away, there is
// no leader, or the time of the attempt was up.
func repeatable(err error) bool {
	if _, ok := err.(rpctypes.EtcdError); !ok {
		if s, ok := status.FromError(err); ok {
			switch s.Code() {
			case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
				return true
			}
		}
	}
	for _, text := range []string{"request timed out", "raft proposal dropped", "raft: stopped", "leader changed", "no leader", "server stopped",
		"deadline exceeded", "rpc not supported for learner", "too many requests", "transport is closing",
		"connection refused", "EOF", "error reading from server", "the client connection is closing"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func (l *Load) work(ctx context.Context, id int, r *rand.Rand) {
	last := int64(0)
	var lease clientv3.LeaseID
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("%sw%d/%d", LoadPrefix, id, r.Intn(20))
		value := fmt.Sprintf("%d.%d.%s", id, i, strings.Repeat("x", r.Intn(200)))
		e := Event{Key: key, Value: value}
		revision, ok := int64(0), false
		switch n := r.Intn(20); {
		case n < 5:
			revision, ok = l.try(ctx, "get", func(ctx context.Context) (int64, error) {
				p, err := l.client.Get(ctx, key)
				if err != nil {
					return 0, err
				}
				return p.Header.Revision, nil
			})
			l.reads.Add(1)
			e.Key = ""
		case n < 7:
			e.Deleted, e.Value = true, ""
			revision, ok = l.try(ctx, "delete", func(ctx context.Context) (int64, error) {
				p, err := l.client.Delete(ctx, key)
				if err != nil {
					return 0, err
				}
				if p.Deleted == 0 {
					e.Key = "" // nothing happened
				}
				return p.Header.Revision, nil
			})
		case n < 10:
			revision, ok = l.try(ctx, "txn", func(ctx context.Context) (int64, error) {
				p, err := l.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), ">", -1)).
					Then(clientv3.OpPut(key, value), clientv3.OpPut(LoadPrefix+"shared", value)).Commit()
				if err != nil {
					return 0, err
				}
				return p.Header.Revision, nil
			})
		case n == 10:
			if lease == 0 || r.Intn(10) == 0 {
				revision, ok = l.try(ctx, "grant", func(ctx context.Context) (int64, error) {
					p, err := l.client.Grant(ctx, 600)
					if err != nil {
						return 0, err
					}
					lease = p.ID
					return p.Revision, nil
				})
			} else {
				revision, ok = l.try(ctx, "keep alive", func(ctx context.Context) (int64, error) {
					p, err := l.client.KeepAliveOnce(ctx, lease)
					if err != nil {
						return 0, err
					}
					return p.Revision, nil
				})
				revision = last // of a lease's answer the revision is not linearizable
			}
			e.Key = ""
		default:
			e.Lease = int64(lease)
			revision, ok = l.try(ctx, "put", func(ctx context.Context) (int64, error) {
				p, err := l.client.Put(ctx, key, value, clientv3.WithLease(lease))
				if err != nil {
					return 0, err
				}
				return p.Header.Revision, nil
			})
		}
		if ok {
			if revision < last {
				l.problem("revision %d was answered after %d", revision, last)
			}
			last = max(last, revision)
			if e.Key != "" {
				e.Revision = revision
				l.acknowledge(e)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(l.Pace):
		}
	}
}

func (l *Load) acknowledge(e Event) {
	l.mu.Lock()
	l.acks = append(l.acks, e)
	l.mu.Unlock()
	l.acknowledged.Add(1)
	l.lastAck.Store(int64(time.Since(l.started)))
}

// Members are the endpoints of the cluster as the client knows them now.
func (l *Load) Members() []string { return l.client.Endpoints() }

// Stop ends the workers, lets the watch arrive at the end and tells what went wrong for the
// application.
func (l *Load) Stop() []string {
	ctx, cancel := context.WithTimeout(context.Background(), l.GiveUp)
	defer cancel()
	end := int64(0)
	// A last write, which the watch must reach; its predecessors are then there as well.
	if _, ok := l.try(ctx, "the last put", func(ctx context.Context) (int64, error) {
		p, err := l.client.Put(ctx, LoadPrefix+"end", fmt.Sprint(time.Now().UnixNano()))
		if err == nil {
			end = p.Header.Revision
		}
		return end, err
	}); !ok {
		l.problem("the load cannot end")
	}
	for ctx.Err() == nil {
		l.mu.Lock()
		seen := l.seen
		l.mu.Unlock()
		if seen >= end {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if ctx.Err() != nil {
		l.problem("the watch did not reach revision %d", end)
	}
	l.stop()
	l.done.Wait()
	l.client.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.problems)
}

// Check compares what the load was told and what its watch saw with the history that the members
// tell. With compactions in between, the history begins later; what is before it is not checked.
func (l *Load) Check(history []Event) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []string
	say := func(format string, args ...any) {
		if len(wrong) < 20 {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	if len(history) == 0 {
		return []string{"there is no history"}
	}
	from := history[0].Revision
	type place struct {
		revision int64
		key      string
	}
	told := map[place]Event{}
	for _, e := range history {
		told[place{e.Revision, e.Key}] = e
	}
	for _, a := range l.acks {
		if a.Revision < from {
			continue
		}
		e, ok := told[place{a.Revision, a.Key}]
		if !ok || e.Deleted != a.Deleted || e.Value != a.Value || e.Lease != a.Lease && a.Lease != 0 {
			say("acknowledged at %d: %s=%.40q; the members tell %t %.40q", a.Revision, a.Key, a.Value, ok, e.Value)
		}
	}
	seen := map[place]bool{}
	for _, w := range l.watched {
		seen[place{w.Revision, w.Key}] = true
		if w.Revision >= from {
			if e, ok := told[place{w.Revision, w.Key}]; !ok || e != w {
				say("watched at %d: %s=%.40q; the members tell %t %.40q", w.Revision, w.Key, w.Value, ok, e.Value)
			}
		}
	}
	last := l.seen
	for _, e := range history {
		if strings.HasPrefix(e.Key, LoadPrefix) && e.Revision >= l.from && e.Revision <= last && !seen[place{e.Revision, e.Key}] {
			say("the watch missed %s at %d", e.Key, e.Revision)
		}
	}
	return wrong
}

// Summary says in one line how the load fared.
func (l *Load) Summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := slices.Clone(l.times)
	slices.Sort(times)
	at := func(part float64) time.Duration {
		if len(times) == 0 {
			return 0
		}
		return times[int(float64(len(times)-1)*part)].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d writes acknowledged, %d reads, %d events watched, %d repeated attempts, "+
		"p50 %s, p99 %s, longest %s", l.acknowledged.Load(), l.reads.Load(), len(l.watched), l.retries.Load(),
		at(0.5), at(0.99), l.worst.Round(time.Millisecond))
}
