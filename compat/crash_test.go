package compat

import (
	"context"
	"fmt"
	"math/rand"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// ack is a write that was acknowledged: the key then held the value, written at the revision.
type ack struct {
	key, value string // an empty value is a deletion
	revision   int64
}

// ledger is what the writers were told; it outlives the server.
type ledger struct {
	mu     sync.Mutex
	acks   []ack
	last   map[string]ack    // the newest acknowledgement of each key
	trying map[string]string // what is being written to a key and may or may not have happened
	count  atomic.Int64
}

func (l *ledger) attempt(key, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trying[key] = value
}

func (l *ledger) acknowledge(a ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks = append(l.acks, a)
	l.last[a.key] = a
	delete(l.trying, a.key)
	l.count.Add(1)
}

// writer writes to its own keys until the server is gone.
func (l *ledger) writer(ctx context.Context, client *clientv3.Client, id int, round int) {
	r := rand.New(rand.NewSource(int64(round*100 + id)))
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("w%d/%d", id, r.Intn(20))
		value := fmt.Sprintf("%d.%d.%s", round, i, make([]byte, r.Intn(300)))
		if r.Intn(40) == 0 {
			value += string(make([]byte, 20000))
		}
		var revision int64
		var err error
		switch r.Intn(10) {
		case 0:
			value = ""
			l.attempt(key, value)
			var p *clientv3.DeleteResponse
			if p, err = client.Delete(ctx, key); err == nil {
				revision = p.Header.Revision
			}
		case 1:
			l.attempt(key, value)
			var p *clientv3.TxnResponse
			if p, err = client.Txn(ctx).Then(clientv3.OpPut(key, value),
				clientv3.OpPut("shared", value)).Commit(); err == nil {
				revision = p.Header.Revision
			}
		default:
			l.attempt(key, value)
			var p *clientv3.PutResponse
			if p, err = client.Put(ctx, key, value); err == nil {
				revision = p.Header.Revision
			}
		}
		if err != nil {
			return
		}
		l.acknowledge(ack{key, value, revision})
	}
}

// compactor compacts and grants leases beside the writers.
func (l *ledger) compactor(ctx context.Context, client *clientv3.Client) {
	for next := l.count.Load() + 300; ctx.Err() == nil; {
		if l.count.Load() < next {
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		next += 300
		if p, err := client.Get(ctx, "shared"); err == nil {
			_, _ = client.Compact(ctx, p.Header.Revision-100)
			_, _ = client.Grant(ctx, 1000)
		}
	}
}

// check compares what a restarted server holds with what was acknowledged.
func (l *ledger) check(t *testing.T, m *harness.Member) {
	t.Helper()
	client := m.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	now, err := client.Get(ctx, "w", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]string{}
	for _, kv := range now.Kvs {
		held[string(kv.Key)] = string(kv.Value)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	highest := int64(0)
	for key, a := range l.last {
		highest = max(highest, a.revision)
		value, unfinished := l.trying[key]
		if held[key] != a.value && (!unfinished || held[key] != value) {
			t.Errorf("%s: %q was acknowledged at %d, found %.40q", key, a.value, a.revision, held[key])
		}
	}
	if now.Header.Revision < highest {
		t.Errorf("revision went back: %d was acknowledged, the server is at %d", highest, now.Header.Revision)
	}
	hash, err := pb.NewMaintenanceClient(client.ActiveConnection()).HashKV(ctx, &pb.HashKVRequest{})
	if err != nil {
		t.Fatal(err)
	}
	compacted := max(1, hash.CompactRevision)
	for i := len(l.acks) - 1; i >= max(0, len(l.acks)-150); i-- { // history, not only the last state
		a := l.acks[i]
		if a.revision < compacted {
			continue
		}
		p, err := client.Get(ctx, a.key, clientv3.WithRev(a.revision))
		if err != nil {
			t.Fatal(err)
		}
		found := ""
		if len(p.Kvs) == 1 {
			found = string(p.Kvs[0].Value)
		}
		if found != a.value {
			t.Errorf("%s at revision %d: %.40q was acknowledged, found %.40q", a.key, a.revision, a.value, found)
		}
	}
	l.trying = map[string]string{}
	for key, value := range held { // what was in doubt is settled now
		if a := l.last[key]; a.value != value {
			l.last[key] = ack{key, value, now.Header.Revision}
		}
	}
	for key, a := range l.last {
		if _, ok := held[key]; !ok && a.value != "" {
			l.last[key] = ack{key, "", now.Header.Revision}
		}
	}
}

// TestCrash kills ours under load, again and again.
func TestCrash(t *testing.T) {
	rounds := harness.EnvInt(t, "COMPAT_CRASHES", 3)
	m := harness.Launch(t, harness.Ours, "--snapshot-count=500")
	l := &ledger{last: map[string]ack{}, trying: map[string]string{}}
	r := rand.New(rand.NewSource(time.Now().UnixNano()))
	for round := range rounds {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for id := range 12 {
			client := m.Client()
			wg.Go(func() {
				defer client.Close()
				if id == 0 {
					l.compactor(ctx, client)
				} else {
					l.writer(ctx, client, id, round)
				}
			})
		}
		goal := l.count.Load() + 100 + int64(r.Intn(2000))
		for deadline := time.Now().Add(60 * time.Second); l.count.Load() < goal; {
			if time.Now().After(deadline) || !m.Running() {
				t.Fatalf("the load stopped at %d of %d writes\n%s", l.count.Load(), goal, m.LogTail(20))
			}
			time.Sleep(time.Millisecond)
		}
		m.Kill()
		cancel()
		wg.Wait()

		copied := filepath.Join(t.TempDir(), "copy")
		harness.CopyDir(t, m.Dir, copied)
		harness.MustStart(t, m)
		l.check(t, m)
		compareWithCopy(t, m, copied)
		if t.Failed() {
			t.Fatalf("after round %d, %d writes", round, l.count.Load())
		}
	}
	t.Logf("evidence: %d times killed under load, %d acknowledged writes, none missing; real etcd reads "+
		"the same", rounds, l.count.Load())
	harness.MustStop(t, m)
	if err := harness.CheckDir(m.Dir); err != nil {
		t.Error(err)
	}
}

// compareWithCopy starts real etcd on a copy of the directory as it was before the restart, and
// compares everything both hold.
func compareWithCopy(t *testing.T, m *harness.Member, dir string) {
	t.Helper()
	twin := harness.NewMember(harness.Real, t.TempDir())
	twin.Dir = dir
	t.Cleanup(twin.Kill)
	harness.MustStart(t, twin)
	defer twin.Kill()
	text := func(m *harness.Member) string {
		var kept []string
		for _, line := range splitLines(state(t, m)) {
			if len(line) < 7 || line[:7] != "member " { // its client URL differs
				kept = append(kept, line)
			}
		}
		return joinLines(kept)
	}
	if theirs, ours := text(twin), text(m); theirs != ours {
		t.Errorf("real etcd (before) and %s (after) read the same directory differently\n%s", m.Kind,
			differences(theirs, ours))
	}
	harness.MustStop(t, twin)
	if err := harness.CheckDir(dir); err != nil {
		t.Error(err)
	}
}
