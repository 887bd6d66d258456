package compat

import (
	"context"
	"fmt"

	"math/rand"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// registers is a workload of reads, writes and compare-and-swaps on a few keys, whose history must be
// linearizable. Every client talks to one member only, so that each member is asked in every fault.
type registers struct {
	begun time.Time
	stop  context.CancelFunc
	done  sync.WaitGroup
	acks  []atomic.Int64 // writes answered, by client

	mu      sync.Mutex
	history []operation
}

// operation is one call: what was asked, what was answered, and when.
type operation struct {
	client   int
	call     time.Duration
	back     time.Duration // forever: nobody knows
	key      string
	kind     byte   // 'r'ead, 'w'rite, 'c'ompare and swap
	value    string // written, or read
	expected string // by a compare and swap
	swapped  bool
	revision int64 // of the answer
}

const registerKeys = 6

// forever is when an answer comes that never came.
const forever = time.Duration(1<<63 - 1)

// registerTimeout bounds one call; after it nobody knows what became of it.
const registerTimeout = 2500 * time.Millisecond

// startRegisters starts one client a member.
func startRegisters(c *harness.Cluster, seed int64) *registers {
	ctx, cancel := context.WithCancel(context.Background())
	r := &registers{begun: time.Now(), stop: cancel, acks: make([]atomic.Int64, len(c.Members))}
	for i, m := range c.Members {
		client := c.ClientOf(m)
		r.done.Go(func() { r.work(ctx, i, client, rand.New(rand.NewSource(seed*100+int64(i)))) })
	}
	return r
}

func (r *registers) work(ctx context.Context, id int, client *clientv3.Client, random *rand.Rand) {
	known := make([]string, registerKeys) // what this client saw last
	for i := 0; ctx.Err() == nil; i++ {
		at := random.Intn(registerKeys)
		o := operation{client: id, key: fmt.Sprintf("register/%d", at), value: fmt.Sprintf("%d.%d", id, i)}
		call, cancel := context.WithTimeout(context.Background(), registerTimeout)
		var err error
		o.call = time.Since(r.begun)
		switch n := random.Intn(10); {
		case n < 4:
			o.kind, o.value = 'r', ""
			var p *clientv3.GetResponse
			if p, err = client.Get(call, o.key); err == nil {
				if o.revision = p.Header.Revision; len(p.Kvs) == 1 {
					o.value = string(p.Kvs[0].Value)
				}
				known[at] = o.value
			}
		case n < 8:
			o.kind = 'w'
			var p *clientv3.PutResponse
			if p, err = client.Put(call, o.key, o.value); err == nil {
				o.revision, known[at] = p.Header.Revision, o.value
			}
		default:
			o.kind, o.expected = 'c', known[at]
			if o.expected == "" {
				cancel()
				continue
			}
			var p *clientv3.TxnResponse
			if p, err = client.Txn(call).If(clientv3.Compare(clientv3.Value(o.key), "=", o.expected)).
				Then(clientv3.OpPut(o.key, o.value)).Commit(); err == nil {
				o.revision, o.swapped = p.Header.Revision, p.Succeeded
			}
		}
		o.back = time.Since(r.begun)
		cancel()
		switch {
		case err == nil:
			if o.kind == 'w' {
				r.acks[id].Add(1)
			}
			r.remember(o)
		case o.kind != 'r':
			o.back, o.revision = forever, 0
			r.remember(o)
		}
		pause := 3 * time.Millisecond
		if err != nil {
			pause = 30 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (r *registers) remember(o operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, o)
}

// live waits until each client of the given members had so many more writes answered.
func (r *registers) live(c *harness.Cluster, members []*harness.Member, writes int64, within time.Duration) error {
	goals := map[int]int64{}
	for i, m := range c.Members {
		for _, one := range members {
			if one == m {
				goals[i] = r.acks[i].Load() + writes
			}
		}
	}
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		behind := ""
		for i, goal := range goals {
			if r.acks[i].Load() < goal {
				behind = c.Members[i].Name
			}
		}
		if behind == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("through %s no %d writes were answered in %s", behind, writes, within)
		}
	}
}

// finish stops the clients.
func (r *registers) finish() []operation {
	r.stop()
	r.done.Wait()
	return r.history
}

// settle gives the writes that were never answered their fate: what is not in the members' history
// did not happen and never will; what is there happened before the first answer of that revision.
func settle(t *testing.T, operations []operation, history []harness.Event) []operation {
	t.Helper()
	type written struct{ key, value string }
	at := map[written]int64{}
	for _, e := range history {
		w := written{e.Key, e.Value}
		if before, twice := at[w]; twice && !e.Deleted && len(e.Key) > 9 && e.Key[:9] == "register/" {
			t.Errorf("%s=%s was written twice, at %d and %d", e.Key, e.Value, before, e.Revision)
		}
		at[w] = e.Revision
	}
	answered := append([]operation{}, operations...)
	sort.Slice(answered, func(i, j int) bool { return answered[i].back < answered[j].back })
	var settled []operation
	for _, o := range operations {
		if o.back == forever {
			revision, happened := at[written{o.key, o.value}]
			if !happened {
				continue
			}
			o.revision, o.swapped = revision, true
			for _, other := range answered {
				if other.back != forever && other.revision >= revision {
					o.back = max(other.back, o.call)
					break
				}
			}
		}
		settled = append(settled, o)
	}
	return settled
}

// checkOrder demands that the revisions, which the server says is the order of things, explain every
// answer and agree with what was before what in time. That is linearizability, with the order given.
func checkOrder(t *testing.T, operations []operation, history []harness.Event) {
	t.Helper()
	type state struct {
		revision int64
		value    string
	}
	states := map[string][]state{} // by key, in order
	for _, e := range history {
		states[e.Key] = append(states[e.Key], state{e.Revision, e.Value})
	}
	value := func(key string, revision int64) string {
		all := states[key]
		i := sort.Search(len(all), func(i int) bool { return all[i].revision > revision })
		if i == 0 {
			return ""
		}
		return all[i-1].value
	}
	for _, o := range operations {
		found := value(o.key, o.revision)
		switch {
		case o.kind == 'r' && found != o.value:
			t.Errorf("read %s at %d: answered %q, it was %q", o.key, o.revision, o.value, found)
		case (o.kind == 'w' || o.swapped) && found != o.value:
			t.Errorf("wrote %s at %d: %q, it is %q", o.key, o.revision, o.value, found)
		case o.kind == 'c' && o.swapped && value(o.key, o.revision-1) != o.expected:
			t.Errorf("swapped %s at %d though it was %q, not %q", o.key, o.revision,
				value(o.key, o.revision-1), o.expected)
		case o.kind == 'c' && !o.swapped && found == o.expected:
			t.Errorf("did not swap %s at %d though it was %q", o.key, o.revision, found)
		}
	}
	byCall, byBack := append([]operation{}, operations...), append([]operation{}, operations...)
	sort.Slice(byCall, func(i, j int) bool { return byCall[i].call < byCall[j].call })
	sort.Slice(byBack, func(i, j int) bool { return byBack[i].back < byBack[j].back })
	newest, next := int64(0), 0
	for _, o := range byCall {
		for ; next < len(byBack) && byBack[next].back < o.call; next++ {
			newest = max(newest, byBack[next].revision)
		}
		if writes := o.kind == 'w' || o.swapped; o.revision < newest || writes && o.revision == newest {
			t.Errorf("%c %s through client %d was answered with revision %d, after %d had been answered",
				o.kind, o.key, o.client, o.revision, newest)
		}
	}
}

// checkLinearizable has porcupine search an order, without believing the revisions of answers.
func checkLinearizable(t *testing.T, operations []operation) {
	t.Helper()
	model := porcupine.Model{
		Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, o := range all {
				key := o.Input.(operation).key
				byKey[key] = append(byKey[key], o)
			}
			var parts [][]porcupine.Operation
			for _, part := range byKey {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() any { return "" },
		Step: func(before, input, _ any) (bool, any) {
			switch o := input.(operation); {
			case o.kind == 'w':
				return true, o.value
			case o.kind == 'r':
				return before == o.value, before
			case o.swapped:
				return before == o.expected, o.value
			default:
				return before != o.expected, before
			}
		},
	}
	var all []porcupine.Operation
	for _, o := range operations {
		all = append(all, porcupine.Operation{ClientId: o.client, Input: o, Call: int64(o.call),
			Output: nil, Return: int64(o.back)})
	}
	if result := porcupine.CheckOperationsTimeout(model, all, time.Minute); result != porcupine.Ok {
		t.Errorf("porcupine on %d operations: %s", len(all), result)
	}
}

// TestRegisterChecks: the checks find what they are for.
func TestRegisterChecks(t *testing.T) {
	history := []harness.Event{
		{Revision: 2, Key: "register/0", Value: "a"}, {Revision: 3, Key: "register/0", Value: "b"},
	}
	write := func(at int, value string, revision int64) operation {
		return operation{call: time.Duration(at), back: time.Duration(at + 1), key: "register/0", kind: 'w',
			value: value, revision: revision}
	}
	read := func(at int, value string, revision int64) operation {
		o := write(at, value, revision)
		o.kind = 'r'
		return o
	}
	for name, one := range map[string]struct {
		operations     []operation
		order, history bool // what finds the mistake
	}{
		"right":             {[]operation{write(0, "a", 2), write(2, "b", 3), read(4, "b", 3)}, false, false},
		"stale read":        {[]operation{write(0, "a", 2), write(2, "b", 3), read(4, "a", 2)}, true, true},
		"wrong read":        {[]operation{write(0, "a", 2), write(2, "b", 3), read(4, "c", 3)}, true, true},
		"lost write":        {[]operation{write(0, "a", 2), write(2, "c", 3), read(4, "b", 3)}, true, true},
		"revision repeated": {[]operation{write(0, "a", 2), write(2, "a", 2)}, true, false},
	} {
		var order, search testing.T
		checkOrder(&order, one.operations, history)
		checkLinearizable(&search, one.operations)
		if order.Failed() != one.order || search.Failed() != one.history {
			t.Errorf("%s: found by the order %v, by the search %v", name, order.Failed(), search.Failed())
		}
	}
}
