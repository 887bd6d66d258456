package compat

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

func init() {
	type W = pb.WatchCreateRequest
	everything := func(q *W) *W {
		q.Key, q.RangeEnd = zero, zero
		return q
	}
	register("watch create",
		Case{Name: "answer", Run: func(c *C) { c.Watch(&W{Key: b("a")}) }},
		Case{Name: "empty key", Run: func(c *C) {
			w := c.Watch(&W{}, &W{RangeEnd: zero})
			c.Put("a=1")
			w.Log(1)
			c.PutReq(&pb.PutRequest{Key: zero, Value: b("x")})
			w.Next()
			w.Next()
		}},
		Case{Name: "empty interval", Run: func(c *C) {
			w := c.Watch(&W{Key: b("b"), RangeEnd: b("a")}, &W{Key: b("b"), RangeEnd: b("b")})
			w.Create(&W{Key: b("a")})
		}},
		Case{Name: "negative start", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), StartRevision: -1})
			w.Create(&W{Key: b("a")})
		}},
		Case{Name: "ids are counted", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")}, &W{Key: b("b")}, &W{Key: b("c"), WatchId: 7},
				&W{Key: b("d"), WatchId: 2}, &W{Key: b("e")}, &W{Key: b("f")})
			w.Cancel(3)
			w.Log(1)
			w.Create(&W{Key: b("g")})
		}},
		Case{Name: "negative ids", Run: func(c *C) {
			c.Watch(&W{Key: b("a"), WatchId: -7}, &W{Key: b("a"), WatchId: -1}, &W{Key: b("a")})
		}},
		Case{Name: "duplicate id", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), WatchId: 4}, &W{Key: b("b"), WatchId: 4})
			c.Put("a=1", "b=1")
			w.Log(1)
			w.Cancel(4)
			w.Log(1)
			w.Create(&W{Key: b("c"), WatchId: 4})
		}},
		Case{Name: "empty request is ignored", Run: func(c *C) {
			w := c.Watch()
			w.Send(&pb.WatchRequest{})
			w.Create(&W{Key: b("a")})
		}},
		Case{Name: "unknown filters are ignored", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), Filters: []pb.WatchCreateRequest_FilterType{9, -1}})
			c.Put("a=1")
			w.Log(1)
		}},
	)
	register("watch",
		Case{Name: "put and delete", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")})
			c.Put("a=1", "b=1", "a=2")
			c.Delete("a")
			w.Log(3)
		}},
		Case{Name: "interval", Run: func(c *C) {
			w := c.Watch(&W{Key: b("b"), RangeEnd: b("d")})
			c.Put("a=1", "b=1", "c=1", "d=1")
			c.Del(&pb.DeleteRangeRequest{Key: zero, RangeEnd: zero})
			w.Log(3)
			w.Quiet()
		}},
		Case{Name: "from key", Run: func(c *C) {
			w := c.Watch(&W{Key: b("b"), RangeEnd: zero})
			c.Put("a=1", "b=1", "z=1")
			w.Log(2)
		}},
		Case{Name: "transaction is one answer", Run: func(c *C) {
			c.Put("d=1", "e=1")
			w := c.Watch(everything(&W{PrevKv: true}))
			c.Txn(then(put("b", "1"), put("a", "1"), del("d", "z"), sub(then(put("zz", "1")))))
			w.Log(1)
		}},
		Case{Name: "put and delete of one key in one transaction", Run: func(c *C) {
			c.Put("a=1", "b=1")
			w := c.Watch(everything(&W{PrevKv: true}))
			c.Txn(then(del("a", ""), del("a", "c")))
			w.Log(1)
		}},
		Case{Name: "put, then deleted, in one transaction", Run: func(c *C) {
			c.Put("a=0")
			ask := func() *W { return everything(&W{PrevKv: true}) }
			w := c.Watch(ask())
			c.Txn(then(sub(then(put("a", "1"), put("new", "1"))), sub(then(del("a", "z")))))
			w.Log(1)
			q := ask()
			q.StartRevision = c.Rev(2)
			c.Watch(q).Log(1)
		}},
		Case{Name: "deleted, then put, in one transaction", Run: func(c *C) {
			c.Put("a=0", "b=0")
			ask := func() *W { return everything(&W{PrevKv: true}) }
			w := c.Watch(ask())
			c.Txn(then(del("a", "\x00"), put("a", "1"), put("c", "1")))
			w.Log(1)
			q := ask()
			q.StartRevision = c.Rev(3)
			c.Watch(q).Log(1)
		}},
		Case{Name: "prev_kv", Run: func(c *C) {
			c.Put("a=0")
			w := c.Watch(&W{Key: b("a"), PrevKv: true})
			c.Put("a=1")
			c.Delete("a")
			c.Put("a=2", "a=3")
			w.Log(4)
		}},
		Case{Name: "prev_kv carries the lease", Run: func(c *C) {
			c.Grant(7, 100)
			c.PutReq(&pb.PutRequest{Key: b("a"), Value: b("1"), Lease: 7})
			w := c.Watch(&W{Key: b("a"), PrevKv: true})
			c.Revoke(7)
			w.Log(1)
		}},
		Case{Name: "filter puts", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
			c.Put("a=1", "a=2")
			c.Delete("a")
			w.Log(1)
			w.Quiet()
		}},
		Case{Name: "filter deletes", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), PrevKv: true,
				Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}})
			c.Put("a=1")
			c.Delete("a")
			c.Put("a=2")
			w.Log(2)
			w.Quiet()
		}},
		Case{Name: "both filters", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(1),
				Filters: []pb.WatchCreateRequest_FilterType{1, 0, 1}})
			c.Put("a=1")
			c.Delete("a")
			w.Quiet()
		}},
		Case{Name: "from the past", Run: func(c *C) {
			c.Put("a=1", "b=1", "a=2")
			c.Delete("a")
			w := c.Watch(everything(&W{StartRevision: c.Rev(2)}))
			w.Log(1)
			c.Put("c=1")
			w.Log(1)
		}},
		Case{Name: "from the past with prev_kv and filter", Run: func(c *C) {
			c.Put("a=1", "b=1", "a=2")
			c.Delete("a")
			c.Put("a=3")
			w := c.Watch(everything(&W{StartRevision: c.Rev(2), PrevKv: true,
				Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}))
			w.Log(1)
		}},
		Case{Name: "past without matches", Run: func(c *C) {
			c.Put("a=1", "b=1")
			w := c.Watch(&W{Key: b("zz"), StartRevision: c.Rev(1)})
			c.Put("zz=1")
			w.Events(1)
		}},
		Case{Name: "from the present", Run: func(c *C) {
			c.Put("a=1")
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(1)})
			w.Log(1)
		}},
		Case{Name: "from the next revision", Run: func(c *C) {
			c.Put("a=1")
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(2)})
			c.Put("a=2")
			w.Log(1)
		}},
		Case{Name: "from the future", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(3)})
			c.Put("a=1", "a=2", "a=3", "a=4")
			w.Log(2)
		}},
		Case{Name: "transaction seen from inside its past", Run: func(c *C) {
			c.Txn(then(put("a", "1"), put("b", "1"), put("c", "1")))
			w := c.Watch(&W{Key: b("b"), RangeEnd: zero, StartRevision: c.Rev(1)})
			w.Log(1)
		}},
		Case{Name: "from a compacted revision", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3")
			c.Compact(c.Rev(2), true)
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(1)})
			w.Log(1)
			w.Create(&W{Key: b("a")})
		}},
		Case{Name: "from exactly the compacted revision", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3")
			c.Compact(c.Rev(2), true)
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(2), PrevKv: true})
			w.Log(1)
		}},
		Case{Name: "prev_kv that was compacted", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3", "a=4")
			c.Compact(c.Rev(3), true)
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(3), PrevKv: true})
			w.Log(1)
		}},
		Case{Name: "cancel", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")}, &W{Key: b("b")})
			c.Put("a=1")
			w.Log(1)
			w.Cancel(0)
			w.Log(1)
			c.Put("a=2", "b=1")
			w.Log(1)
		}},
		Case{Name: "cancel of an unknown id", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")})
			w.Cancel(55)
			w.Quiet()
			w.Cancel(0)
			w.Log(1)
			w.Cancel(0)
			w.Quiet()
		}},
		Case{Name: "progress request", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")})
			c.Put("b=1")
			w.Progress()
			w.Log(1)
			c.Put("a=1")
			w.Log(1)
			w.Progress()
			w.Log(1)
		}},
		Case{Name: "progress request without watchers", Run: func(c *C) {
			w := c.Watch()
			w.Progress()
			w.Quiet()
		}},
		Case{Name: "progress request with a watcher in the future", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(5)})
			w.Progress()
			w.Quiet()
		}},
		Case{Name: "progress request after a cancel", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")})
			w.Cancel(0)
			w.Log(1)
			w.Progress()
			w.Quiet()
		}},
		Case{Name: "half close keeps the stream", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")})
			c.Must(w.stream.CloseSend())
			c.Put("a=1", "a=2")
			w.Log(2)
		}},
		Case{Name: "client cancel", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a")})
			w.cancel()
			w.End()
		}},
		Case{Name: "many watchers of one key", Run: func(c *C) {
			var creates []*W
			for range 40 {
				creates = append(creates, &W{Key: b("a")})
			}
			w := c.Watch(creates...)
			c.Put("a=1")
			seen := map[int64]int{}
			for range 40 {
				p := w.Next()
				seen[p.WatchId] += len(p.Events)
			}
			c.Log("%v", seen)
		}},
		Case{Name: "catching up in batches of 1000 revisions", Run: func(c *C) {
			for i := range 1300 {
				c.Put(fmt.Sprintf("a=%d", i))
			}
			w := c.Watch(&W{Key: b("a"), StartRevision: c.Rev(1)})
			for seen := 0; seen < 1300; {
				p := w.Next()
				seen += len(p.Events)
				c.Log("%d events up to %s, header %s", len(p.Events),
					c.Revision(p.Events[len(p.Events)-1].Kv.ModRevision), c.Revision(p.Header.Revision))
			}
		}},
		Case{Name: "catching up while writing loses nothing", Run: func(c *C) {
			for i := range 400 {
				c.Put(fmt.Sprintf("k%d=%d", i%7, i))
			}
			w := c.Watch(everything(&W{StartRevision: c.Rev(1)}))
			for i := range 200 {
				c.Put(fmt.Sprintf("k%d=%d", i%7, i))
			}
			w.Events(600)
		}},
		Case{Name: "a client that does not read stops nobody and loses nothing", Run: func(c *C) {
			stream, err := c.Watcher.Watch(c.Ctx)
			c.Must(err)
			c.Must(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
				CreateRequest: everything(&W{})}}))
			_, err = stream.Recv()
			c.Must(err)
			value := strings.Repeat("v", 20000)
			for i := range 800 {
				c.Put(fmt.Sprintf("k%d=%s", i%5, value))
			}
			last, events := int64(0), 0
			for events < 800 {
				p, err := stream.Recv()
				c.Must(err)
				for _, e := range p.Events {
					if last != 0 && e.Kv.ModRevision != last+1 {
						c.Log("%d after %d", e.Kv.ModRevision, last)
					}
					last = e.Kv.ModRevision
				}
				events += len(p.Events)
			}
			c.Log("%d events up to %s", events, c.Revision(last))
		}},
		Case{Name: "lease revocation is one answer", Run: func(c *C) {
			c.Grant(7, 100)
			for _, key := range []string{"c", "a", "b"} {
				c.PutReq(&pb.PutRequest{Key: b(key), Lease: 7})
			}
			w := c.Watch(everything(&W{}))
			c.Revoke(7)
			w.Log(1)
		}},
		Case{Name: "several streams", Run: func(c *C) {
			first, second := c.Watch(&W{Key: b("a")}), c.Watch(&W{Key: b("a"), PrevKv: true})
			c.Put("a=1")
			first.Log(1)
			second.Log(1)
		}},
		Case{Name: "progress notify", Flags: []string{"--watch-progress-notify-interval=200ms"},
			Run: func(c *C) {
				w := c.Watch(&W{Key: b("a"), ProgressNotify: true})
				w.Log(1)
				c.Put("b=1")
				for {
					p := w.Next()
					if p.Header.Revision == c.Rev(1) {
						c.Log("then: %s", c.Message(p))
						break
					}
				}
				c.Put("a=1")
				for {
					p := w.Next()
					if len(p.Events) > 0 || p.Header.Revision == c.Rev(2) {
						c.Log("event: %s", c.Message(p))
						break
					}
				}
			}},
	)
	registerWatchFragments()
	registerWatchClient()
}

func registerWatchFragments() {
	type W = pb.WatchCreateRequest
	large := func(c *C) {
		var ops []*pb.RequestOp
		for i := range 5 {
			value := bytes.Repeat([]byte{byte('a' + i)}, 290<<10)
			ops = append(ops, putOp(&pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: value}))
		}
		_, err := c.KV.Txn(c.Ctx, then(ops...))
		c.Must(err)
	}
	// How many revisions a catching-up answer holds is the server's choice; one revision with its previous
	// values is too large for one answer.
	fragments := func(c *C, w *W) {
		large(c)
		large(c)
		w.Key, w.RangeEnd, w.StartRevision, w.PrevKv = b("k"), b("l"), c.Rev(2), true
		stream := c.Watch(w)
		for seen := 0; seen < 5; {
			p := stream.Next()
			seen += len(p.Events)
			c.Log("%d events, fragment %v, header %s, id %d", len(p.Events), p.Fragment,
				c.Revision(p.Header.Revision), p.WatchId)
		}
		c.Put("k0=last")
		stream.Next()
	}
	register("watch fragments",
		Case{Name: "off", Run: func(c *C) { fragments(c, &W{}) }},
		Case{Name: "on", Run: func(c *C) { fragments(c, &W{Fragment: true}) }},
		Case{Name: "the header counts", Own: true, Run: headerCounts},
		Case{Name: "off over two revisions", Run: func(c *C) {
			large(c)
			large(c)
			c.Watch(&W{Key: b("k"), RangeEnd: b("l"), StartRevision: c.Rev(1)}).Events(10)
		}},
		Case{Name: "on with prev_kv, live", Run: func(c *C) {
			large(c)
			w := c.Watch(&W{Key: b("k"), RangeEnd: b("l"), Fragment: true, PrevKv: true})
			large(c)
			for seen := 0; seen < 5; {
				p := w.Next()
				seen += len(p.Events)
				c.Log("%d events, fragment %v", len(p.Events), p.Fragment)
			}
		}},
		Case{Name: "small answers are whole", Run: func(c *C) {
			w := c.Watch(&W{Key: b("a"), Fragment: true})
			c.Put("a=1")
			w.Log(1)
		}},
	)
}

// clientEvents logs what the real client's watcher delivers until n events have come.
func clientEvents(c *C, ch clientv3.WatchChan, n int) {
	for seen := 0; seen < n; {
		p, ok := <-ch
		if !ok {
			c.Log("channel closed")
			return
		}
		if err := p.Err(); err != nil {
			c.Log("canceled=%v compact=%s err=%s", p.Canceled, c.Revision(p.CompactRevision), harness.Error(err))
		}
		for _, e := range p.Events {
			c.Log("%s %s=%s mod %s create %v modify %v", e.Type, e.Kv.Key, e.Kv.Value,
				c.Revision(e.Kv.ModRevision), e.IsCreate(), e.IsModify())
			seen++
		}
	}
}

func registerWatchClient() {
	register("watch with the go client",
		Case{Name: "prefix from the past", Run: func(c *C) {
			c.Put("p/1=a", "p/2=b", "q=c", "p/1=d")
			ch := c.Client().Watch(c.Ctx, "p/", clientv3.WithPrefix(), clientv3.WithRev(c.Rev(1)))
			clientEvents(c, ch, 3)
			c.Delete("p/2")
			clientEvents(c, ch, 1)
		}},
		Case{Name: "compacted", Run: func(c *C) {
			c.Put("a=1", "a=2", "a=3")
			c.Compact(c.Rev(2), true)
			clientEvents(c, c.Client().Watch(c.Ctx, "a", clientv3.WithRev(c.Rev(1))), 1)
		}},
		Case{Name: "cancel closes the channel", Run: func(c *C) {
			ctx, cancel := context.WithCancel(c.Ctx)
			ch := c.Client().Watch(ctx, "a", clientv3.WithCreatedNotify())
			p := <-ch
			c.Log("created %v", p.Created)
			cancel()
			for range ch {
			}
			c.Log("closed")
		}},
		Case{Name: "progress", Run: func(c *C) {
			client := c.Client()
			ch := client.Watch(c.Ctx, "a", clientv3.WithCreatedNotify())
			<-ch
			c.Put("b=1")
			c.Must(client.RequestProgress(c.Ctx))
			p := <-ch
			c.Log("progress %v at %s", p.IsProgressNotify(), c.Revision(p.Header.Revision))
		}},
		Case{Name: "fragment is put together", Run: func(c *C) {
			ch := c.Client().Watch(c.Ctx, "f", clientv3.WithPrefix(), clientv3.WithFragment(),
				clientv3.WithCreatedNotify())
			<-ch
			var ops []*pb.RequestOp
			for i := range 12 {
				ops = append(ops, put(fmt.Sprint("f", i), strings.Repeat("x", 100<<10)))
			}
			_, err := c.KV.Txn(c.Ctx, then(ops...))
			c.Must(err)
			p := <-ch
			c.Log("%d events", len(p.Events))
		}},
		Case{Name: "put filter and prev_kv", Run: func(c *C) {
			client := c.Client()
			ch := client.Watch(c.Ctx, "a", clientv3.WithFilterPut(), clientv3.WithPrevKV(),
				clientv3.WithCreatedNotify())
			<-ch
			c.Put("a=1")
			c.Delete("a")
			p := <-ch
			c.Log("%d events, previous %s", len(p.Events), p.Events[0].PrevKv.Value)
		}},
	)
}

// headerCounts watches revisions whose events alone stay just below the size from which etcd splits
// a response, and do not with its header.
func headerCounts(c *C) {
	const limit = 1536<<10 + 512<<10 // --max-request-bytes and what etcd adds to it
	length := 500_000
	watch := func(fragment bool) *W {
		return c.Watch(&pb.WatchCreateRequest{Key: b("k"), RangeEnd: b("l"), PrevKv: true,
			Fragment: fragment})
	}
	whole := watch(false)
	write := func() int {
		value := strings.Repeat("v", length)
		_, err := c.KV.Txn(c.Ctx, then(put("k1", value), put("k2", value)))
		c.Must(err)
		return proto.Size(&pb.WatchResponse{Events: whole.Next().Events})
	}
	write()
	for _, below := range []int{100, 14} {
		length += (limit - below - write()) / 4 // two values and the two before
		write()
		split := watch(true)
		c.Log("the events take %d bytes less than the limit", limit-write())
		p := split.Next()
		c.Log("%d events, fragment %v", len(p.Events), p.Fragment)
		if p.Fragment {
			p = split.Next()
			c.Log("%d events, fragment %v", len(p.Events), p.Fragment)
		}
		split.cancel()
	}
}
