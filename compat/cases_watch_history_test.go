package compat

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func init() {
	type Q = pb.WatchCreateRequest
	// sizes logs what arrives, until so many events have.
	sizes := func(c *C, w *W, events int) {
		for events > 0 {
			p := w.Next()
			events -= len(p.Events)
			c.Log("watch %d: %d events, fragment %v, header %s", p.WatchId, len(p.Events),
				p.Fragment, c.Revision(p.Header.Revision))
		}
	}
	register("watch history",
		Case{Name: "prev_kv of a key put and deleted in one transaction", Run: func(c *C) {
			c.Put("a=1")
			w := c.Watch(&Q{Key: b("a"), RangeEnd: zero, PrevKv: true})
			c.Txn(then(sub(then(put("a", "2"))), sub(then(del("a", "")))))
			c.Txn(then(sub(then(put("b", "1"))), sub(then(del("b", "")))))
			w.Log(2)
			w = c.Watch(&Q{Key: b("a"), RangeEnd: zero, PrevKv: true, StartRevision: c.Rev(1)})
			w.Log(1)
		}},
		Case{Name: "progress request with a watcher of the next revision", Run: func(c *C) {
			c.Put("b=1")
			w := c.Watch(&Q{Key: b("a"), StartRevision: c.Rev(2)})
			w.Progress()
			w.Quiet()
			c.Put("b=2")
			w.Progress()
			w.Log(1)
		}},
		Case{Name: "a response has 1000 revisions of what is watched", Run: func(c *C) {
			for i := range 1300 {
				c.Put("a=1", fmt.Sprintf("b=%d", i))
			}
			sizes(c, c.Watch(&Q{Key: b("a"), StartRevision: c.Rev(1)}), 1300)
		}},
		Case{Name: "filtered revisions count", Run: func(c *C) {
			for range 700 {
				c.Put("a=1")
				c.Delete("a")
			}
			w := c.Watch(&Q{Key: b("a"), StartRevision: c.Rev(1),
				Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
			sizes(c, w, 700)
		}},
		Case{Name: "large values in one response or in fragments", Run: func(c *C) {
			for range 5 {
				c.Put("a=" + strings.Repeat("x", 900_000))
			}
			sizes(c, c.Watch(&Q{Key: b("a"), StartRevision: c.Rev(1)}), 5)
			sizes(c, c.Watch(&Q{Key: b("a"), StartRevision: c.Rev(1), Fragment: true}), 5)
		}},
	)
}
