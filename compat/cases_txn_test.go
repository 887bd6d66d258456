package compat

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func put(key, value string) *pb.RequestOp {
	return putOp(&pb.PutRequest{Key: b(key), Value: b(value)})
}

func putOp(q *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: q}}
}

func get(key string) *pb.RequestOp { return rangeOp(&pb.RangeRequest{Key: b(key)}) }

func rangeOp(q *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: q}}
}

func del(key, end string) *pb.RequestOp {
	return delOp(&pb.DeleteRangeRequest{Key: b(key), RangeEnd: b(end)})
}

func delOp(q *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: q}}
}

func sub(q *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: q}}
}

func then(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }

// never is a comparison that does not hold: an existing-key test on a key nobody writes.
func never() *pb.Compare {
	return &pb.Compare{Key: b("never-written"), Target: pb.Compare_CREATE, Result: pb.Compare_GREATER,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0}}
}

// nest wraps a transaction in levels of single-operation transactions.
func nest(levels int, inner *pb.TxnRequest) *pb.TxnRequest {
	for range levels {
		inner = then(sub(inner))
	}
	return inner
}

// compared logs only whether the comparisons held.
func (c *C) compared(label string, compares ...*pb.Compare) {
	p, err := c.KV.Txn(c.Ctx, &pb.TxnRequest{Compare: compares})
	if err != nil {
		c.Answer(label, p, err)
		return
	}
	c.Log("%s: %v", label, p.Succeeded)
}

// operands makes a comparison of each target with a number (or text, for VALUE).
func operand(target pb.Compare_CompareTarget, n int64, value string) *pb.Compare {
	m := &pb.Compare{Target: target}
	switch target {
	case pb.Compare_VERSION:
		m.TargetUnion = &pb.Compare_Version{Version: n}
	case pb.Compare_CREATE:
		m.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n}
	case pb.Compare_MOD:
		m.TargetUnion = &pb.Compare_ModRevision{ModRevision: n}
	case pb.Compare_VALUE:
		m.TargetUnion = &pb.Compare_Value{Value: b(value)}
	case pb.Compare_LEASE:
		m.TargetUnion = &pb.Compare_Lease{Lease: n}
	}
	return m
}

// matrix compares one target against three operands with every result, on the given interval.
func matrix(c *C, target pb.Compare_CompareTarget, key, end string, n int64, value string) {
	values := []string{"", value, value + "x"}
	for i, delta := range []int64{-1, 0, 1} {
		for result := range int32(4) {
			m := operand(target, n+delta, values[i])
			m.Key, m.RangeEnd = b(key), b(end)
			m.Result = pb.Compare_CompareResult(result)
			c.compared(fmt.Sprintf("%s %s %+d", target, m.Result, delta), m)
		}
	}
}

func init() {
	targets := map[string]pb.Compare_CompareTarget{
		"version": pb.Compare_VERSION, "create": pb.Compare_CREATE, "mod": pb.Compare_MOD,
		"value": pb.Compare_VALUE, "lease": pb.Compare_LEASE,
	}
	for _, name := range []string{"version", "create", "mod", "value", "lease"} {
		target := targets[name]
		register("txn compare", Case{Name: name, Run: func(c *C) {
			c.Grant(3, 100)
			c.Put("a=0")
			c.PutReq(&pb.PutRequest{Key: b("a"), Value: b("v"), Lease: 3})
			actual := map[string]int64{"version": 2, "create": c.Rev(1), "mod": c.Rev(2), "lease": 3}
			matrix(c, target, "a", "", actual[name], "v")
		}}, Case{Name: name + " of a missing key", Run: func(c *C) {
			matrix(c, target, "none", "", 0, "v")
		}}, Case{Name: name + " over a range", Run: func(c *C) {
			c.Put("a=v", "b=w", "b=v")
			actual := map[string]int64{"version": 1, "create": c.Rev(1), "mod": c.Rev(1)}
			matrix(c, target, "a", "c", actual[name], "v")
			matrix(c, target, "x", "z", 0, "v")
			matrix(c, target, "a", "\x00", actual[name], "v")
			matrix(c, target, "b", "a", 0, "v")
		}})
	}
	register("txn compare",
		Case{Name: "empty list holds", Run: func(c *C) { c.compared("none") }},
		Case{Name: "all must hold", Run: func(c *C) {
			c.Put("a=1")
			yes := operand(pb.Compare_VALUE, 0, "1")
			yes.Key = b("a")
			c.compared("yes", yes)
			c.compared("yes and no", yes, never())
			c.compared("yes and yes", yes, yes)
		}},
		Case{Name: "empty key", Run: func(c *C) {
			c.compared("empty", &pb.Compare{})
			c.Txn(then(sub(&pb.TxnRequest{Compare: []*pb.Compare{{}}})))
		}},
		Case{Name: "operand of another target is zero", Run: func(c *C) {
			c.Put("a=1")
			for target := range int32(5) {
				c.compared(fmt.Sprint(target), &pb.Compare{Key: b("a"),
					Target: pb.Compare_CompareTarget(target), Result: pb.Compare_GREATER,
					TargetUnion: &pb.Compare_Lease{Lease: 500}})
				c.compared(fmt.Sprint(target, " unset"), &pb.Compare{Key: b("a"),
					Target: pb.Compare_CompareTarget(target), Result: pb.Compare_EQUAL})
			}
		}},
		Case{Name: "unknown result and target", Run: func(c *C) {
			c.Put("a=1")
			for _, key := range []string{"a", "none"} {
				c.compared("result 9", &pb.Compare{Key: b(key), Result: 9})
				for result := range int32(4) {
					c.compared("target 9", &pb.Compare{Key: b(key), Target: 9,
						Result: pb.Compare_CompareResult(result)})
				}
			}
		}},
		Case{Name: "sees the state before the transaction", Run: func(c *C) {
			inner := &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: b("a"), Target: pb.Compare_VERSION,
					Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{Version: 0}}},
				Success: []*pb.RequestOp{put("b", "a was missing")},
				Failure: []*pb.RequestOp{put("b", "a was there")},
			}
			c.Txn(then(put("a", "1"), sub(inner)))
			c.Txn(then(put("a", "1"), sub(inner)))
			c.All()
		}},
	)
	registerTxnRuns()
	registerTxnRefusals()
}

func registerTxnRuns() {
	register("txn",
		Case{Name: "empty", Run: func(c *C) { c.Txn(&pb.TxnRequest{}) }},
		Case{Name: "one put", Run: func(c *C) { c.Txn(then(put("a", "1"))); c.All() }},
		Case{Name: "many changes are one revision", Run: func(c *C) {
			c.Put("d1=1", "d2=1")
			c.Txn(then(put("b", "1"), del("d1", "d9"), put("a", "1")))
			c.All()
		}},
		Case{Name: "else branch", Run: func(c *C) {
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{never()},
				Success: []*pb.RequestOp{put("a", "1")},
				Failure: []*pb.RequestOp{put("b", "1"), get("b")}})
			c.All()
		}},
		Case{Name: "else branch without operations", Run: func(c *C) {
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{never()},
				Success: []*pb.RequestOp{put("a", "1")}})
		}},
		Case{Name: "reads see earlier writes", Run: func(c *C) {
			c.Put("a=0")
			c.Txn(then(get("a"), put("a", "1"), get("a"), del("a", ""), get("a")))
		}},
		Case{Name: "reads before and after the write in headers", Run: func(c *C) {
			c.Txn(then(get("a"), put("b", "1"), get("a"), del("zz", ""), get("a")))
		}},
		Case{Name: "range inside at a revision", Run: func(c *C) {
			c.Put("a=1", "a=2")
			c.Txn(then(put("b", "1"), rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)})))
			c.Txn(then(rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)}),
				rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(2)})))
		}},
		Case{Name: "range options inside", Run: func(c *C) {
			threeKeys(c)
			c.Txn(then(put("z", "1"),
				rangeOp(all(&pb.RangeRequest{Limit: 2})),
				rangeOp(all(&pb.RangeRequest{CountOnly: true})),
				rangeOp(all(&pb.RangeRequest{KeysOnly: true, SortOrder: pb.RangeRequest_DESCEND})),
				rangeOp(all(&pb.RangeRequest{SortTarget: pb.RangeRequest_VALUE, Limit: 1})),
				rangeOp(all(&pb.RangeRequest{MinModRevision: c.Rev(5)}))))
		}},
		Case{Name: "deletion of nothing", Run: func(c *C) {
			c.Txn(then(del("a", "")))
			c.Txn(then(del("a", ""), get("a")))
			c.Txn(then(put("b", "1"), del("a", "")))
		}},
		Case{Name: "delete with prev_kv", Run: func(c *C) {
			c.Put("a=1", "b=2")
			c.Txn(then(put("c", "3"),
				delOp(&pb.DeleteRangeRequest{Key: b("a"), RangeEnd: b("c"), PrevKv: true})))
		}},
		Case{Name: "put with prev_kv after a delete", Run: func(c *C) {
			c.Put("a=1")
			c.Txn(&pb.TxnRequest{Success: []*pb.RequestOp{
				putOp(&pb.PutRequest{Key: b("a"), Value: b("2"), PrevKv: true}), get("a")}})
			c.Txn(then(sub(then(get("a"))), putOp(&pb.PutRequest{Key: b("a"), PrevKv: true})))
		}},
		Case{Name: "put ignore_value and lease", Run: func(c *C) {
			c.Grant(7, 100)
			c.PutReq(&pb.PutRequest{Key: b("a"), Value: b("1"), Lease: 7})
			c.Txn(then(putOp(&pb.PutRequest{Key: b("a"), IgnoreValue: true}), get("a")))
			c.PutReq(&pb.PutRequest{Key: b("a"), Value: b("1"), Lease: 7})
			c.Txn(then(putOp(&pb.PutRequest{Key: b("a"), Value: b("2"), IgnoreLease: true}), get("a")))
		}},
		Case{Name: "ignore_value sees the state before", Run: func(c *C) {
			c.Txn(then(put("b", "1"), putOp(&pb.PutRequest{Key: b("a"), IgnoreValue: true})))
			c.Put("a=1")
			c.Txn(then(put("b", "1"), putOp(&pb.PutRequest{Key: b("a"), IgnoreValue: true})))
			c.All()
		}},
		Case{Name: "ignore_value of a deleted key, where it harms nobody", Run: func(c *C) {
			keep := putOp(&pb.PutRequest{Key: b("a"), IgnoreValue: true})
			c.Txn(then(del("a", "\x00"), keep)) // there is no such key
			c.Put("a=1", "b=2")
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{never()},
				Success: []*pb.RequestOp{del("a", "\x00"), keep}, Failure: []*pb.RequestOp{get("a")}})
			c.Txn(then(del("b", "\x00"), sub(then(keep))))
			c.Txn(then(del("a", "\x00"), sub(&pb.TxnRequest{Compare: []*pb.Compare{never()},
				Success: []*pb.RequestOp{keep}})))
			c.All()
		}},
		Case{Name: "nested", Run: func(c *C) {
			c.Txn(then(put("a", "1"), sub(then(put("b", "2"), get("a"), sub(then(put("c", "3"))))),
				get("c")))
			c.All()
		}},
		Case{Name: "nested else", Run: func(c *C) {
			c.Txn(then(sub(&pb.TxnRequest{Compare: []*pb.Compare{never()},
				Success: []*pb.RequestOp{put("a", "1")}, Failure: []*pb.RequestOp{put("b", "1")}})))
			c.All()
		}},
		Case{Name: "nested read only", Run: func(c *C) {
			c.Put("a=1")
			c.Txn(then(sub(then(get("a")))))
			c.Txn(then(sub(&pb.TxnRequest{})))
		}},
		Case{Name: "read only", Run: func(c *C) {
			c.Put("a=1", "b=2")
			c.Txn(then(get("a"), get("b"), rangeOp(all(&pb.RangeRequest{Limit: 1}))))
			c.Txn(then(rangeOp(&pb.RangeRequest{Key: b("a"), Serializable: true})))
		}},
		Case{Name: "same key in then and else", Run: func(c *C) {
			c.Txn(&pb.TxnRequest{Success: []*pb.RequestOp{put("a", "1")},
				Failure: []*pb.RequestOp{put("a", "2")}})
			c.All()
		}},
		Case{Name: "unknown lease in the branch not taken", Run: func(c *C) {
			c.Txn(&pb.TxnRequest{Success: []*pb.RequestOp{put("a", "1")},
				Failure: []*pb.RequestOp{putOp(&pb.PutRequest{Key: b("a"), Lease: 999})}})
			c.Txn(&pb.TxnRequest{Success: []*pb.RequestOp{put("a", "1")},
				Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(99)})}})
		}},
		Case{Name: "lease attaches", Run: func(c *C) {
			c.Grant(7, 100)
			c.Txn(then(putOp(&pb.PutRequest{Key: b("a"), Lease: 7}), put("b", "1")))
			c.Revoke(7)
			c.All()
		}},
	)
}

// aborts runs a transaction that fails while it is applied and shows that it left nothing.
func aborts(c *C, ops ...*pb.RequestOp) {
	c.Txn(then(ops...))
	c.All()
}

func registerTxnRefusals() {
	register("txn refused",
		Case{Name: "range in the future", Run: func(c *C) {
			aborts(c, put("a", "1"), rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)}))
			aborts(c, rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)}))
		}},
		Case{Name: "range at a compacted revision", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3")
			c.Compact(c.Rev(2), true)
			aborts(c, put("b", "1"), rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)}))
			aborts(c, put("b", "1"), rangeOp(&pb.RangeRequest{Key: b("a"), Revision: -1}))
			aborts(c, rangeOp(&pb.RangeRequest{Key: b("a"), Revision: -1}))
			aborts(c, rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)}))
			aborts(c, rangeOp(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(2)}))
		}},
		Case{Name: "negative revision before any compaction", Own: true, Run: func(c *C) {
			aborts(c, put("b", "1"), rangeOp(&pb.RangeRequest{Key: b("a"), Revision: -1}))
			aborts(c, rangeOp(&pb.RangeRequest{Key: b("a"), Revision: -2}))
		}},
		Case{Name: "unknown lease", Run: func(c *C) {
			aborts(c, put("b", "1"), putOp(&pb.PutRequest{Key: b("a"), Lease: 999}))
		}},
		Case{Name: "ignore_value on a missing key", Run: func(c *C) {
			aborts(c, put("b", "1"), putOp(&pb.PutRequest{Key: b("a"), IgnoreValue: true}))
			aborts(c, sub(then(put("b", "1"))), putOp(&pb.PutRequest{Key: b("a"), IgnoreLease: true}))
		}},
		Case{Name: "invalid operations", Run: func(c *C) {
			aborts(c, putOp(&pb.PutRequest{}))
			aborts(c, rangeOp(&pb.RangeRequest{}))
			aborts(c, delOp(&pb.DeleteRangeRequest{}))
			aborts(c, rangeOp(&pb.RangeRequest{Key: b("a"), SortOrder: 7}))
			aborts(c, rangeOp(&pb.RangeRequest{Key: b("a"), SortTarget: 7}))
			aborts(c, putOp(&pb.PutRequest{Key: b("a"), Value: b("x"), IgnoreValue: true}))
			aborts(c, putOp(&pb.PutRequest{Key: b("a"), Lease: 1, IgnoreLease: true}))
		}},
		Case{Name: "invalid operations in the branch not taken", Run: func(c *C) {
			c.Txn(&pb.TxnRequest{Failure: []*pb.RequestOp{putOp(&pb.PutRequest{})}})
			c.Txn(then(sub(&pb.TxnRequest{Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{})}})))
		}},
		Case{Name: "operation without a request", Run: func(c *C) {
			aborts(c, &pb.RequestOp{})
			aborts(c, sub(then(&pb.RequestOp{})))
			c.Txn(&pb.TxnRequest{Failure: []*pb.RequestOp{{}}})
		}},
		Case{Name: "nested transaction without a body", Run: func(c *C) {
			aborts(c, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{}})
			aborts(c, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{}})
		}},
		Case{Name: "put put of one key", Run: func(c *C) { aborts(c, put("a", "1"), put("a", "2")) }},
		Case{Name: "put delete overlap", Run: func(c *C) {
			aborts(c, put("a", "1"), del("a", ""))
			aborts(c, del("a", ""), put("a", "1"))
			aborts(c, put("b", "1"), del("a", "c"))
			aborts(c, del("a", "\x00"), put("b", "1"))
			aborts(c, del("\x00", "\x00"), put("b", "1"))
			aborts(c, del("a", "b"), put("b", "1"))
			aborts(c, del("c", "a"), put("b", "1"))
		}},
		Case{Name: "delete delete overlap is fine", Run: func(c *C) {
			c.Put("a=1", "b=1")
			aborts(c, del("a", "c"), del("b", ""), del("a", "\x00"))
		}},
		Case{Name: "range put overlap is fine", Run: func(c *C) { aborts(c, get("a"), put("a", "1"), get("a")) }},
		Case{Name: "duplicates across nested transactions", Run: func(c *C) {
			aborts(c, put("a", "1"), sub(then(put("a", "2"))))
			aborts(c, sub(then(put("a", "1"))), sub(then(put("a", "2"))))
			aborts(c, sub(then(put("a", "1"))), sub(then(del("a", "b"))))
			aborts(c, sub(then(del("a", "b"))), put("a", "1"))
			aborts(c, sub(&pb.TxnRequest{Success: []*pb.RequestOp{put("a", "1")},
				Failure: []*pb.RequestOp{put("a", "2")}}))
			aborts(c, sub(&pb.TxnRequest{Success: []*pb.RequestOp{put("a", "1")},
				Failure: []*pb.RequestOp{del("a", "")}}))
			aborts(c, put("b", "1"), sub(&pb.TxnRequest{Failure: []*pb.RequestOp{put("b", "2")}}))
			aborts(c, sub(then(sub(then(put("x", "1"))))), sub(then(sub(then(del("x", ""))))))
		}},
		Case{Name: "duplicates in the else branch", Run: func(c *C) {
			c.Txn(&pb.TxnRequest{Failure: []*pb.RequestOp{put("a", "1"), put("a", "2")}})
		}},
		Case{Name: "too many operations", Run: func(c *C) {
			ops := func(n int) []*pb.RequestOp {
				var list []*pb.RequestOp
				for i := range n {
					list = append(list, get(fmt.Sprint("k", i)))
				}
				return list
			}
			var compares []*pb.Compare
			for range 129 {
				compares = append(compares, never())
			}
			for name, q := range orderedTxns(
				"128 then", &pb.TxnRequest{Success: ops(128)},
				"129 then", &pb.TxnRequest{Success: ops(129)},
				"129 else", &pb.TxnRequest{Failure: ops(129)},
				"128 and 128", &pb.TxnRequest{Success: ops(128), Failure: ops(128)},
				"129 compares", &pb.TxnRequest{Compare: compares},
				"128 compares", &pb.TxnRequest{Compare: compares[:128]},
			) {
				c.Log("%s", name)
				p, err := c.KV.Txn(c.Ctx, q)
				if err != nil {
					c.Answer("txn", p, err)
				} else {
					c.Log("%v %d", p.Succeeded, len(p.Responses))
				}
			}
		}},
		Case{Name: "budget shrinks with nesting", Run: func(c *C) {
			ops := func(n int, more ...*pb.RequestOp) *pb.TxnRequest {
				for i := range n {
					more = append(more, get(fmt.Sprint("k", i)))
				}
				return then(more...)
			}
			c.Txn(ops(99, sub(ops(28))))
			c.Txn(ops(99, sub(ops(29))))
			c.Txn(ops(9, sub(ops(9, sub(ops(108))))))
			c.Txn(ops(9, sub(ops(9, sub(ops(109))))))
		}},
		Case{Name: "127 levels", Run: func(c *C) {
			p, err := c.KV.Txn(c.Ctx, nest(127, then(put("deep", "1"))))
			if err != nil {
				c.Answer("txn", p, err)
				return
			}
			depth := 0
			for p != nil && len(p.Responses) == 1 {
				depth++
				p = p.Responses[0].GetResponseTxn()
			}
			c.Log("depth %d", depth)
			c.All()
		}},
		Case{Name: "128 levels and many", Run: func(c *C) {
			aborts(c, sub(nest(127, then(put("deep", "1")))))
			aborts(c, sub(nest(200, then(put("deep", "1")))))
			aborts(c, sub(nest(4000, then(put("deep", "1")))))
		}},
		Case{Name: "more levels than the parser takes", Run: func(c *C) {
			aborts(c, sub(nest(4900, then(put("deep", "1")))))
			aborts(c, sub(nest(5100, then(put("deep", "1")))))
		}},
		Case{Name: "max-txn-ops", Flags: []string{"--max-txn-ops=3"}, Run: func(c *C) {
			aborts(c, get("a"), get("b"), get("c"))
			aborts(c, get("a"), get("b"), get("c"), get("d"))
			aborts(c, get("a"), sub(then(get("b"))))
			aborts(c, get("a"), sub(then(get("b"), get("c"))))
		}},
		Case{Name: "request too large", Run: func(c *C) {
			big := string(make([]byte, 800000))
			aborts(c, put("a", big), put("b", big))
			aborts(c, put("a", big), put("b", "1"))
		}},
	)
}

// orderedTxns yields names and transactions in order.
func orderedTxns(list ...any) func(func(string, *pb.TxnRequest) bool) {
	return func(yield func(string, *pb.TxnRequest) bool) {
		for i := 0; i < len(list); i += 2 {
			if !yield(list[i].(string), list[i+1].(*pb.TxnRequest)) {
				return
			}
		}
	}
}
