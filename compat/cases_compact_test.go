package compat

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// HashAll logs HashKV of the revisions from..to, relative to the start.
func (c *C) HashAll(from, to int64) {
	for n := from; n <= to; n++ {
		c.HashKV(c.Rev(n))
	}
}

// churn writes a history with overwrites, deletions, re-creations and transactions: 12 revisions.
func churn(c *C) {
	c.Put("a=1", "b=1", "a=2", "c=1")
	c.Delete("b")
	c.Put("b=2")
	_, err := c.KV.Txn(c.Ctx, then(put("d", "1"), del("a", ""), put("e", "1")))
	c.Must(err)
	c.Put("a=3", "e=2")
	_, err = c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: b("c"), RangeEnd: b("e")})
	c.Must(err)
	c.Put("f=1", "c=2")
}

func init() {
	register("compact",
		Case{Name: "zero succeeds once on a fresh store", Own: true, Run: func(c *C) {
			c.Compact(-1, false)
			c.Compact(0, true)
			c.Compact(0, true)
			c.Compact(1, true)
			c.Compact(1, true)
			c.Compact(2, true)
		}},
		Case{Name: "everything deleted, and one put again, in one transaction", Own: true, Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3", "b=4")
			c.Compact(c.Rev(4), true)
			c.Put("d=1")
			all := delOp(&pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
			c.Txn(then(all, put("b", "5")))
			c.HashAll(4, 6)
			c.Put("a=2")
			c.HashAll(4, 7)
		}},
		Case{Name: "one on a fresh store", Own: true, Run: func(c *C) { c.Compact(1, true); c.HashKV(0) }},
		Case{Name: "future", Run: func(c *C) { c.Put("a=1"); c.Compact(c.Rev(2), false) }},
		Case{Name: "present", Run: func(c *C) {
			c.Put("a=1", "a=2")
			c.Compact(c.Rev(2), true)
			c.All()
			c.Range(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(2)})
			c.Range(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)})
		}},
		Case{Name: "again and below", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3")
			c.Compact(c.Rev(2), false)
			c.Compact(c.Rev(2), false)
			c.Compact(c.Rev(1), true)
			c.Compact(0, false)
			c.Compact(-1, false)
			c.Compact(c.Rev(3), false)
		}},
		Case{Name: "not physical", Run: func(c *C) {
			c.Put("a=1", "a=2", "b=1")
			c.Compact(c.Rev(2), false)
			c.All()
			c.Range(all(&pb.RangeRequest{Revision: c.Rev(2)}))
		}},
		Case{Name: "keeps what is readable", Run: func(c *C) {
			churn(c)
			for _, at := range []int64{3, 5, 7, 8, 11} {
				c.Compact(c.Rev(at), true)
				for n := at - 1; n <= 12; n++ {
					c.Range(all(&pb.RangeRequest{Revision: c.Rev(n)}))
				}
			}
		}},
		Case{Name: "at the deletion of a key", Run: func(c *C) {
			c.Put("a=1")
			c.Delete("a")
			c.Put("b=1")
			c.Compact(c.Rev(2), true)
			w := c.Watch(&pb.WatchCreateRequest{Key: zero, RangeEnd: zero, StartRevision: c.Rev(2)})
			w.Log(1)
			c.Range(all(&pb.RangeRequest{Revision: c.Rev(2)}))
		}},
		Case{Name: "versions go on", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3")
			c.Compact(c.Rev(3), true)
			c.Put("a=4")
			c.All()
		}},
		Case{Name: "everything deleted", Run: func(c *C) {
			c.Put("a=1", "b=1")
			c.Del(&pb.DeleteRangeRequest{Key: zero, RangeEnd: zero})
			c.Put("z=1")
			c.Delete("z")
			c.Compact(c.Rev(5), true)
			c.All()
			c.Put("a=2")
			c.All()
		}},
		Case{Name: "thousands of revisions", Run: func(c *C) {
			for i := range 2500 {
				c.Put(fmt.Sprintf("k%d=%d", i%20, i))
			}
			c.Compact(c.Rev(2400), true)
			c.Range(all(&pb.RangeRequest{Revision: c.Rev(2400), KeysOnly: true}))
			c.Put("k1=last")
			c.Range(all(&pb.RangeRequest{CountOnly: true}))
		}},
		Case{Name: "by revision, automatically", Flags: []string{
			"--auto-compaction-mode=revision", "--auto-compaction-retention=10"},
			Run: func(c *C) { c.Put("a=1"); c.Range(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(1)}) }},
	)
	register("hashkv",
		Case{Name: "of zero after a compaction at zero", Own: true, Run: func(c *C) {
			c.Put("a=1")
			c.Compact(0, true)
			c.Put("a=2")
			c.HashKV(0)
			c.HashKV(c.Rev(2))
			c.Compact(c.Rev(1), true)
			c.HashKV(0)
			c.HashKV(c.Rev(1))
		}},
		Case{Name: "empty store", Own: true, Run: func(c *C) {
			c.HashKV(0)
			c.HashKV(1)
			c.HashKV(2)
			c.HashKV(-1)
		}},
		Case{Name: "every revision", Own: true, Run: func(c *C) {
			churn(c)
			c.HashKV(0)
			c.HashAll(0, 13)
		}},
		Case{Name: "after compactions", Own: true, Run: func(c *C) {
			churn(c)
			for _, at := range []int64{2, 5, 7, 8, 11} {
				c.Compact(c.Rev(at), true)
				c.HashAll(at-1, 13)
			}
			churn(c)
			c.HashKV(0)
			c.Compact(c.Rev(24), true)
			c.HashAll(23, 25)
		}},
		Case{Name: "of a compaction revision is remembered", Own: true, Run: func(c *C) {
			churn(c)
			c.Compact(c.Rev(4), true)
			c.HashKV(c.Rev(4))
			c.Compact(c.Rev(9), true)
			c.HashKV(c.Rev(4))
			c.HashKV(c.Rev(9))
			c.Put("a=9")
			c.HashKV(c.Rev(9))
		}},
		Case{Name: "only ten are remembered", Own: true, Run: func(c *C) {
			for i := range 14 {
				c.Put(fmt.Sprintf("a=%d", i), fmt.Sprintf("b%d=1", i))
				c.Compact(c.Rev(int64(2*i+1)), true)
			}
			c.HashAll(20, 28)
		}},
		Case{Name: "leases are in the rows", Own: true, Run: func(c *C) {
			c.Grant(7, 100)
			c.Grant(-7, 100)
			c.PutReq(&pb.PutRequest{Key: b("a"), Value: b("1"), Lease: 7})
			c.PutReq(&pb.PutRequest{Key: b("b"), Value: b("1"), Lease: -7})
			c.HashKV(0)
			c.Revoke(7)
			c.HashKV(0)
		}},
		Case{Name: "of one transaction with many changes", Own: true, Run: func(c *C) {
			var ops []*pb.RequestOp
			for i := range 128 {
				ops = append(ops, put(fmt.Sprintf("k%03d", i), "v"))
			}
			_, err := c.KV.Txn(c.Ctx, then(ops...))
			c.Must(err)
			c.HashKV(0)
			c.Del(&pb.DeleteRangeRequest{Key: zero, RangeEnd: zero})
			c.HashAll(1, 2)
			c.Compact(c.Rev(2), true)
			c.HashAll(2, 2)
		}},
		Case{Name: "of a compacted revision without waiting", Own: true, Run: func(c *C) {
			churn(c)
			c.Compact(c.Rev(6), false)
			c.HashKV(c.Rev(5))
			c.HashAll(7, 13)
		}},
	)
}
