package compat

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// threeKeys leaves a b c with different orders by key, version, create, mod and value:
// created b a c, versions a=1 b=3 c=2.
func threeKeys(c *C) { c.Put("b=1", "a=9", "c=5", "c=2", "b=2", "b=7") }

// all makes a range request cover every key.
func all(q *pb.RangeRequest) *pb.RangeRequest {
	q.Key, q.RangeEnd = zero, zero
	return q
}

func init() {
	type R = pb.RangeRequest
	register("range",
		Case{Name: "empty key", Run: func(c *C) { c.Range(&R{}) }},
		Case{Name: "missing key", Run: func(c *C) { c.Range(&R{Key: b("a")}) }},
		Case{Name: "one key", Run: func(c *C) { c.Put("a=1"); c.Range(&R{Key: b("a")}) }},
		Case{Name: "binary key and value", Run: func(c *C) {
			c.PutReq(&pb.PutRequest{Key: []byte{0, 255, 10}, Value: []byte{255, 0, 13, 10}})
			c.Range(&R{Key: []byte{0, 255, 10}})
		}},
		Case{Name: "empty value", Run: func(c *C) { c.Put("a"); c.Range(&R{Key: b("a")}) }},
		Case{Name: "interval is half open", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			c.Range(&R{Key: b("a"), RangeEnd: b("c")})
		}},
		Case{Name: "from key", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			c.Range(&R{Key: b("b"), RangeEnd: zero})
		}},
		Case{Name: "everything", Run: func(c *C) { c.Put("a=1", "b=2"); c.All() }},
		Case{Name: "empty key with range end", Run: func(c *C) {
			c.Put("a=1")
			c.Range(&R{RangeEnd: zero})
		}},
		Case{Name: "end before start", Run: func(c *C) {
			c.Put("a=1", "b=2")
			c.Range(&R{Key: b("b"), RangeEnd: b("a")})
			c.Range(&R{Key: b("b"), RangeEnd: b("b")})
		}},
		Case{Name: "prefix", Run: func(c *C) {
			c.Put("p=0", "p/1=1", "p/2=2", "p0=3", "q=4")
			c.Range(&R{Key: b("p/"), RangeEnd: b("p0")})
		}},
		Case{Name: "prefix of 0xff", Run: func(c *C) {
			c.Put("a=1", "\xff=2", "\xff\xff=3")
			c.Range(&R{Key: []byte{0xff}, RangeEnd: zero})
		}},
		Case{Name: "limit", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			for _, limit := range []int64{1, 2, 3, 4, 0, -1} {
				c.Range(all(&R{Limit: limit}))
			}
		}},
		Case{Name: "count only", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			c.Range(all(&R{CountOnly: true}))
			c.Range(all(&R{CountOnly: true, Limit: 1}))
			c.Range(&R{Key: b("zz"), CountOnly: true})
			c.Range(all(&R{CountOnly: true, KeysOnly: true}))
		}},
		Case{Name: "count only in the past", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			c.Delete("a")
			c.Range(all(&R{CountOnly: true, Revision: c.Rev(2)}))
			c.Range(all(&R{CountOnly: true, Revision: c.Rev(4)}))
		}},
		Case{Name: "keys only", Run: func(c *C) {
			c.Put("a=1", "b=2")
			c.Range(all(&R{KeysOnly: true}))
			c.Range(&R{Key: b("a"), KeysOnly: true})
		}},
		Case{Name: "keys only leaves out the lease", Run: func(c *C) {
			c.Grant(77, 100)
			c.PutReq(&pb.PutRequest{Key: b("a"), Value: b("v"), Lease: 77})
			c.Range(all(&R{KeysOnly: true}))
			c.Range(all(&R{KeysOnly: true, SortTarget: pb.RangeRequest_MOD}))
			c.Range(all(&R{KeysOnly: true, SortTarget: pb.RangeRequest_VALUE}))
			c.Range(all(&R{}))
		}},
		Case{Name: "keys only in the past", Run: func(c *C) {
			c.Put("a=1", "a=2", "b=1", "a=3")
			c.Range(all(&R{KeysOnly: true, Revision: c.Rev(2)}))
			c.Range(all(&R{KeysOnly: true, Revision: c.Rev(3), Limit: 1}))
		}},
		Case{Name: "count only with filters", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			c.Range(all(&R{CountOnly: true, MinModRevision: c.Rev(3)}))
		}},
		Case{Name: "revision in the past", Run: func(c *C) {
			c.Put("a=1", "a=2", "b=1")
			c.Delete("a")
			for n := int64(0); n <= 4; n++ {
				c.Range(all(&R{Revision: c.Rev(n)}))
			}
		}},
		Case{Name: "revision in the future", Run: func(c *C) {
			c.Range(&R{Key: b("a"), Revision: c.Rev(1)})
		}},
		Case{Name: "negative revision", Run: func(c *C) {
			c.Put("a=1")
			c.Range(&R{Key: b("a"), Revision: -5})
		}},
		Case{Name: "revision with limit and count", Run: func(c *C) {
			c.Put("a=1", "b=1", "c=1", "d=1")
			c.Range(all(&R{Revision: c.Rev(3), Limit: 2}))
		}},
		Case{Name: "version restarts after a deletion", Run: func(c *C) {
			c.Put("a=1", "a=2")
			c.Delete("a")
			c.Put("a=3")
			c.All()
		}},
		Case{Name: "min mod revision", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{MinModRevision: c.Rev(4)}))
			c.Range(all(&R{MinModRevision: -1}))
		}},
		Case{Name: "max mod revision", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{MaxModRevision: c.Rev(4)}))
			c.Range(all(&R{MaxModRevision: -1}))
		}},
		Case{Name: "min create revision", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{MinCreateRevision: c.Rev(2)}))
		}},
		Case{Name: "max create revision", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{MaxCreateRevision: c.Rev(2)}))
		}},
		Case{Name: "all filters at once", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{MinModRevision: c.Rev(3), MaxModRevision: c.Rev(5),
				MinCreateRevision: c.Rev(2), MaxCreateRevision: c.Rev(3)}))
		}},
		Case{Name: "filters with limit", Run: func(c *C) {
			c.Put("a=1", "b=1", "c=1", "d=1", "e=1")
			c.Range(all(&R{MinModRevision: c.Rev(2), Limit: 2}))
			c.Range(all(&R{MinModRevision: c.Rev(4), Limit: 2}))
			c.Range(all(&R{MaxModRevision: c.Rev(1), Limit: 1}))
		}},
		Case{Name: "filters with keys only", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{MinModRevision: c.Rev(4), KeysOnly: true}))
		}},
		Case{Name: "sort with limit", Run: func(c *C) {
			threeKeys(c)
			for order := range int32(3) {
				for target := range int32(5) {
					c.Log("order %d target %d", order, target)
					c.Range(all(&R{Limit: 2, SortOrder: pb.RangeRequest_SortOrder(order),
						SortTarget: pb.RangeRequest_SortTarget(target)}))
				}
			}
		}},
		Case{Name: "sort with filter", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{Limit: 1, MinModRevision: c.Rev(3),
				SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_CREATE}))
		}},
		Case{Name: "sort target without order fetches limit+1 keys first", Run: func(c *C) {
			c.Put("y4=1", "y3=1", "y2=1", "y1=1")
			c.Range(all(&R{Limit: 1, SortTarget: pb.RangeRequest_MOD}))
			c.Range(all(&R{Limit: 1, SortTarget: pb.RangeRequest_MOD,
				SortOrder: pb.RangeRequest_ASCEND}))
			c.Range(all(&R{Limit: 2, SortTarget: pb.RangeRequest_CREATE}))
		}},
		Case{Name: "sort by value", Run: func(c *C) {
			c.Put("a=zz", "b=", "c=z", "d=\xff")
			c.Range(all(&R{SortTarget: pb.RangeRequest_VALUE}))
			c.Range(all(&R{SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_DESCEND,
				KeysOnly: true}))
		}},
		Case{Name: "sort in the past", Run: func(c *C) {
			threeKeys(c)
			c.Range(all(&R{Revision: c.Rev(4), SortOrder: pb.RangeRequest_DESCEND,
				SortTarget: pb.RangeRequest_VERSION, Limit: 1}))
		}},
		Case{Name: "sort descending by key", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			c.Range(all(&R{SortOrder: pb.RangeRequest_DESCEND, Limit: 2}))
			c.Range(all(&R{SortOrder: pb.RangeRequest_DESCEND, KeysOnly: true}))
		}},
		Case{Name: "unknown sort order", Run: func(c *C) { c.Range(all(&R{SortOrder: 3})) }},
		Case{Name: "unknown sort target", Run: func(c *C) { c.Range(all(&R{SortTarget: 5})) }},
		Case{Name: "negative sort options", Run: func(c *C) {
			c.Range(all(&R{SortTarget: -1}))
			c.Range(all(&R{SortOrder: -1}))
		}},
		Case{Name: "serializable", Run: func(c *C) {
			c.Put("a=1")
			c.Range(&R{Key: b("a"), Serializable: true})
			c.Range(&R{Key: b("a"), Serializable: true, Revision: c.Rev(9)})
		}},
		Case{Name: "compacted revision", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3")
			c.Compact(c.Rev(2), true)
			for n := int64(1); n <= 3; n++ {
				c.Range(&R{Key: b("a"), Revision: c.Rev(n)})
				c.Range(&R{Key: b("a"), Revision: c.Rev(n), CountOnly: true})
				c.Range(&R{Key: b("a"), Revision: c.Rev(n), KeysOnly: true})
			}
		}},
		Case{Name: "header revision is the present one", Run: func(c *C) {
			c.Put("a=1", "b=1", "c=1")
			c.Range(&R{Key: b("a"), Revision: c.Rev(1)})
		}},
		Case{Name: "many keys", Run: func(c *C) {
			for i := range 300 {
				c.Put(fmt.Sprintf("k%03d=%d", i, i))
			}
			c.Range(all(&R{}))
			c.Range(all(&R{Limit: 100}))
			c.Range(&R{Key: b("k100"), RangeEnd: b("k110"), KeysOnly: true})
			c.Range(all(&R{Revision: c.Rev(200), SortOrder: pb.RangeRequest_DESCEND, Limit: 3}))
		}},
		Case{Name: "large values", Run: func(c *C) {
			for i := range 4 {
				value := make([]byte, 1<<20)
				for j := range value {
					value[j] = byte(i + j%251)
				}
				c.PutReq(&pb.PutRequest{Key: fmt.Appendf(nil, "big%d", i), Value: value})
			}
			c.All()
		}},
		Case{Name: "long key", Run: func(c *C) {
			key := make([]byte, 40000)
			for i := range key {
				key[i] = byte('a' + i%26)
			}
			c.PutReq(&pb.PutRequest{Key: key, Value: b("v")})
			c.Range(&R{Key: key})
			c.Range(&R{Key: append(key, 'x')})
		}},
	)
}
