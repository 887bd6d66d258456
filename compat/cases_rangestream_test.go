package compat

import (
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate/compat/harness"
)

// RangeStream logs the shape and the content of a streamed range.
func (c *C) RangeStream(q *pb.RangeRequest) {
	stream, err := c.KV.RangeStream(c.Ctx, q)
	if err != nil {
		c.Log("range stream: %s", harness.Error(err))
		return
	}
	for {
		p, err := stream.Recv()
		if err == io.EOF {
			c.Log("end")
			return
		}
		if err != nil {
			c.Log("range stream: %s", harness.Error(err))
			return
		}
		c.Log("chunk of %d: %s", len(p.RangeResponse.GetKvs()), c.Message(p))
	}
}

func fill(c *C, n int) {
	for i := range n {
		c.Put(fmt.Sprintf("k%03d=%d", i, i))
	}
}

func init() {
	type R = pb.RangeRequest
	register("range stream",
		Case{Name: "empty result", Run: func(c *C) { c.RangeStream(all(&R{})) }},
		Case{Name: "empty key", Run: func(c *C) { c.RangeStream(&R{}) }},
		Case{Name: "one key", Run: func(c *C) { c.Put("a=1"); c.RangeStream(&R{Key: b("a")}) }},
		Case{Name: "chunks of 10 20 10", Run: func(c *C) { fill(c, 40); c.RangeStream(all(&R{})) }},
		Case{Name: "exactly one chunk", Run: func(c *C) { fill(c, 10); c.RangeStream(all(&R{})) }},
		Case{Name: "limit", Run: func(c *C) {
			fill(c, 40)
			for _, limit := range []int64{1, 10, 15, 30, 40, 41, -1} {
				c.Log("limit %d", limit)
				c.RangeStream(all(&R{Limit: limit}))
			}
		}},
		Case{Name: "count only", Run: func(c *C) {
			fill(c, 12)
			c.RangeStream(all(&R{CountOnly: true}))
			c.RangeStream(all(&R{CountOnly: true, Limit: 3}))
		}},
		Case{Name: "keys only", Run: func(c *C) { fill(c, 12); c.RangeStream(all(&R{KeysOnly: true})) }},
		Case{Name: "revision", Run: func(c *C) {
			fill(c, 12)
			c.Delete("k003")
			c.RangeStream(all(&R{Revision: c.Rev(11)}))
			c.RangeStream(all(&R{Revision: c.Rev(14)}))
			c.RangeStream(all(&R{Revision: -3}))
		}},
		Case{Name: "compacted", Run: func(c *C) {
			fill(c, 5)
			c.Compact(c.Rev(3), true)
			c.RangeStream(all(&R{Revision: c.Rev(2)}))
			c.RangeStream(all(&R{Revision: c.Rev(3)}))
		}},
		Case{Name: "serializable", Run: func(c *C) {
			fill(c, 3)
			c.RangeStream(all(&R{Serializable: true}))
		}},
		Case{Name: "sort orders", Run: func(c *C) {
			fill(c, 3)
			for order := range int32(4) {
				for target := range int32(6) {
					c.Log("order %d target %d", order, target)
					c.RangeStream(all(&R{SortOrder: pb.RangeRequest_SortOrder(order),
						SortTarget: pb.RangeRequest_SortTarget(target)}))
				}
			}
		}},
		Case{Name: "filters are refused", Run: func(c *C) {
			fill(c, 3)
			c.RangeStream(all(&R{MinModRevision: 1}))
			c.RangeStream(all(&R{MaxModRevision: 1}))
			c.RangeStream(all(&R{MinCreateRevision: 1}))
			c.RangeStream(all(&R{MaxCreateRevision: -1}))
		}},
		Case{Name: "chunks shrink for large values", Run: func(c *C) {
			value := make([]byte, 200<<10)
			for i := range 60 {
				_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "v%02d", i), Value: value})
				c.Must(err)
			}
			c.RangeStream(all(&R{}))
		}},
	)
}
