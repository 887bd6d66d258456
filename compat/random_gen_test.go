package compat

import (
	"fmt"
	"math/rand"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// generator draws requests from a seed. It sees the revisions the servers reached, so that it can
// ask for the past, the present and the future.
type generator struct {
	*rand.Rand
	revision, compacted int64   // as of the last answer
	steady              bool    // the hash of the compacted revision does not depend on timing
	physical            bool    // the last compaction was
	leases              []int64 // granted so far, some revoked
	next                int64
}

func newGenerator(seed int64) *generator {
	return &generator{Rand: rand.New(rand.NewSource(seed)), steady: true, physical: true, next: 1000}
}

// chance is true in one of n cases.
func (g *generator) chance(n int) bool { return g.Intn(n) == 0 }

// key is one of 80 keys under eight prefixes, or rarely a strange one.
func (g *generator) key() []byte {
	if g.chance(50) {
		return [][]byte{{0}, {0xff}, {0xff, 0xff}, {'a', 0}, b("a")}[g.Intn(5)]
	}
	return fmt.Appendf(nil, "%c/%d", 'a'+g.Intn(8), g.Intn(10))
}

// interval is a key and a range end of every kind.
func (g *generator) interval() (key, end []byte) {
	switch g.Intn(10) {
	case 0:
		return zero, zero
	case 1:
		return g.key(), zero
	case 2, 3, 4: // a prefix: ten keys
		p := byte('a' + g.Intn(8))
		return []byte{p, '/'}, []byte{p, '0'}
	case 5, 6: // between two keys, perhaps empty
		return g.key(), g.key()
	default:
		return g.key(), nil
	}
}

func (g *generator) value() []byte {
	n := g.Intn(40)
	if g.chance(30) {
		n = g.Intn(12000)
	}
	value := make([]byte, n)
	for i := range value {
		value[i] = byte('a' + g.Intn(26))
	}
	return value
}

// lease is none, a granted one, or rarely one that never was.
func (g *generator) lease() int64 {
	switch {
	case g.chance(40):
		return 7
	case len(g.leases) > 0 && g.chance(3):
		return g.leases[g.Intn(len(g.leases))]
	}
	return 0
}

// past is a revision: mostly readable, sometimes compacted or in the future.
func (g *generator) past() int64 {
	switch g.Intn(12) {
	case 0:
		return g.revision + int64(g.Intn(3))
	case 1:
		return max(0, g.compacted-1)
	case 2:
		return g.compacted
	}
	return g.compacted + g.Int63n(max(1, g.revision-g.compacted+1))
}

func (g *generator) put() *pb.PutRequest {
	q := &pb.PutRequest{Key: g.key(), Value: g.value(), Lease: g.lease(), PrevKv: g.chance(3)}
	if g.chance(15) {
		q.IgnoreValue, q.Value = true, nil
	}
	if g.chance(15) {
		q.IgnoreLease, q.Lease = true, 0
	}
	return q
}

func (g *generator) del() *pb.DeleteRangeRequest {
	q := &pb.DeleteRangeRequest{PrevKv: g.chance(2)}
	q.Key, q.RangeEnd = g.interval()
	if len(q.RangeEnd) == 1 && g.chance(2) {
		q.RangeEnd = nil // emptying the store is worth doing, but not that often
	}
	return q
}

func (g *generator) read() *pb.RangeRequest {
	q := &pb.RangeRequest{Serializable: g.chance(4), KeysOnly: g.chance(5), CountOnly: g.chance(8)}
	q.Key, q.RangeEnd = g.interval()
	if g.chance(3) {
		q.Limit = int64(g.Intn(8))
	}
	if g.chance(3) {
		q.Revision = g.past()
	}
	if g.chance(10) {
		q.MinModRevision, q.MaxModRevision = g.past(), g.past()
	}
	if g.chance(10) {
		q.MinCreateRevision, q.MaxCreateRevision = g.past(), g.past()
	}
	if g.chance(4) { // at most twelve keys: beyond that etcd leaves the order of equals open
		p := byte('a' + g.Intn(8))
		q.Key, q.RangeEnd = []byte{p, '/'}, []byte{p, '0'}
		q.SortOrder = pb.RangeRequest_SortOrder(g.Intn(3))
		q.SortTarget = pb.RangeRequest_SortTarget(g.Intn(5))
	}
	return q
}

func (g *generator) compare() *pb.Compare {
	key := g.key()
	m := operand(pb.Compare_CompareTarget(g.Intn(5)), 0, "")
	switch u := m.TargetUnion.(type) {
	case *pb.Compare_Version:
		u.Version = int64(g.Intn(4))
	case *pb.Compare_CreateRevision:
		u.CreateRevision = g.past()
	case *pb.Compare_ModRevision:
		u.ModRevision = g.past()
	case *pb.Compare_Value:
		u.Value = g.value()
	case *pb.Compare_Lease:
		u.Lease = g.lease()
	}
	m.Key, m.Result = key, pb.Compare_CompareResult(g.Intn(4))
	if g.chance(4) {
		m.Key, m.RangeEnd = g.interval()
	}
	return m
}

// txn draws a transaction. Real etcd 3.7.1 does not see that a deletion "from key" and a put overlap, and
// crashes when such a put keeps the value or lease that is no longer there; so it gets one or the other.
func (g *generator) txn(depth int) *pb.TxnRequest { return g.nested(depth, g.chance(2)) }

func (g *generator) nested(depth int, fromKey bool) *pb.TxnRequest {
	q := &pb.TxnRequest{}
	for range g.Intn(3) {
		q.Compare = append(q.Compare, g.compare())
	}
	branch := func() (ops []*pb.RequestOp) {
		for range g.Intn(4) {
			switch n := g.Intn(10); {
			case n < 4:
				put := g.put()
				if fromKey {
					put.IgnoreValue, put.IgnoreLease = false, false
				}
				ops = append(ops, putOp(put))
			case n < 6:
				del := g.del()
				if string(del.RangeEnd) == "\x00" && !fromKey {
					del.RangeEnd = nil
				}
				ops = append(ops, delOp(del))
			case n < 9 || depth == 0:
				ops = append(ops, rangeOp(g.read()))
			default:
				ops = append(ops, sub(g.nested(depth-1, fromKey)))
			}
		}
		return ops
	}
	q.Success, q.Failure = branch(), branch()
	return q
}

func (g *generator) grant() *pb.LeaseGrantRequest {
	g.next++
	g.leases = append(g.leases, g.next)
	return &pb.LeaseGrantRequest{ID: g.next, TTL: 50000 + int64(g.Intn(50000))}
}

func (g *generator) compaction() *pb.CompactionRequest {
	q := &pb.CompactionRequest{Revision: g.past(), Physical: !g.chance(3)}
	if g.chance(2) {
		q.Revision = max(g.compacted, g.revision-int64(g.Intn(60)))
	}
	return q
}

// hashAt is a revision whose hash both servers must agree on now.
func (g *generator) hashAt() int64 {
	at := g.past()
	if at == g.compacted && !g.steady {
		at++
	}
	return at
}

// request draws the next request.
func (g *generator) request() proto.Message {
	switch n := g.Intn(1000); {
	case n < 400:
		return g.put()
	case n < 500:
		return g.del()
	case n < 700:
		return g.read()
	case n < 870:
		return g.txn(2)
	case n < 900:
		return g.grant()
	case n < 920 && len(g.leases) > 0:
		return &pb.LeaseRevokeRequest{ID: g.leases[g.Intn(len(g.leases))]}
	case n < 935:
		return &pb.LeaseTimeToLiveRequest{ID: g.lease(), Keys: true}
	case n < 996:
		return &pb.HashKVRequest{Revision: g.hashAt()}
	default:
		return g.compaction()
	}
}
