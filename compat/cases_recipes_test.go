package compat

import (
	"context"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"

	"quorate/compat/harness"
)

func (c *C) session() *concurrency.Session {
	s, err := concurrency.NewSession(c.Client(), concurrency.WithTTL(30))
	c.Must(err)
	return s
}

func init() {
	register("go packages",
		Case{Name: "mutex", Run: func(c *C) {
			first, second := c.session(), c.session()
			a, z := concurrency.NewMutex(first, "/lock"), concurrency.NewMutex(second, "/lock")
			c.Must(a.Lock(c.Ctx))
			c.Log("try: %v", z.TryLock(c.Ctx))
			done := make(chan error)
			go func() { done <- z.Lock(c.Ctx) }()
			c.Must(a.Unlock(c.Ctx))
			c.Must(<-done)
			c.Log("handed over, header %s", c.Revision(z.Header().Revision))
			c.Must(z.Unlock(c.Ctx))
			c.All()
		}},
		Case{Name: "mutex is freed with its session", Run: func(c *C) {
			first, second := c.session(), c.session()
			c.Must(concurrency.NewMutex(first, "/lock").Lock(c.Ctx))
			c.Must(first.Close())
			z := concurrency.NewMutex(second, "/lock")
			c.Must(z.Lock(c.Ctx))
			c.Log("locked")
			c.Must(second.Close())
			c.Log("%s", harness.Error(z.Unlock(c.Ctx)))
		}},
		Case{Name: "mutex under contention", Run: func(c *C) {
			var wg sync.WaitGroup
			count, together := 0, 0
			for range 5 {
				s := c.session()
				wg.Go(func() {
					m := concurrency.NewMutex(s, "/lock")
					for range 5 {
						if m.Lock(c.Ctx) != nil {
							return
						}
						together++
						if together == 1 {
							count++
						}
						together--
						_ = m.Unlock(c.Ctx)
					}
				})
			}
			wg.Wait()
			c.Log("%d", count)
		}},
		Case{Name: "election", Run: func(c *C) {
			first, second := c.session(), c.session()
			a, z := concurrency.NewElection(first, "/elect"), concurrency.NewElection(second, "/elect")
			_, err := a.Leader(c.Ctx)
			c.Log("leader: %s", harness.Error(err))
			c.Must(a.Campaign(c.Ctx, "a"))
			p, err := z.Leader(c.Ctx)
			c.Must(err)
			c.Log("leader: %s", p.Kvs[0].Value)
			c.Must(a.Proclaim(c.Ctx, "a2"))
			ctx, cancel := context.WithCancel(c.Ctx)
			seen := z.Observe(ctx)
			q := <-seen
			c.Log("observed: %s", q.Kvs[0].Value)
			done := make(chan error)
			go func() { done <- z.Campaign(c.Ctx, "z") }()
			c.Must(a.Resign(c.Ctx))
			c.Must(<-done)
			q = <-seen
			c.Log("observed: %s", q.Kvs[0].Value)
			cancel()
			c.Log("proclaim: %s", harness.Error(a.Proclaim(c.Ctx, "late")))
			c.Must(z.Resign(c.Ctx))
			c.All()
		}},
		Case{Name: "stm", Run: func(c *C) {
			client := c.Client()
			for i := range 5 {
				c.Put(fmt.Sprintf("acc%d=100", i))
			}
			var wg sync.WaitGroup
			for i := range 5 {
				wg.Go(func() {
					for j := range 6 {
						from, to := fmt.Sprint("acc", i), fmt.Sprint("acc", (i+j+1)%5)
						_, _ = concurrency.NewSTM(client, func(s concurrency.STM) error {
							var x, y int
							fmt.Sscan(s.Get(from), &x)
							s.Put(from, fmt.Sprint(x-7))
							fmt.Sscan(s.Get(to), &y)
							s.Put(to, fmt.Sprint(y+7))
							return nil
						})
					}
				})
			}
			wg.Wait()
			total := 0
			for i := range 5 {
				p, err := client.Get(c.Ctx, fmt.Sprint("acc", i))
				c.Must(err)
				var n int
				fmt.Sscan(string(p.Kvs[0].Value), &n)
				total += n
			}
			c.Log("total %d", total)
		}},
		Case{Name: "stm at every isolation", Run: func(c *C) {
			client := c.Client()
			c.Put("x=1")
			for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot,
				concurrency.Serializable, concurrency.RepeatableReads, concurrency.ReadCommitted} {
				p, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
					s.Put("x", s.Get("x")+"+")
					s.Del("none")
					return nil
				}, concurrency.WithIsolation(level), concurrency.WithPrefetch("x"))
				c.Must(err)
				c.Log("%v at %s", p.Succeeded, c.Revision(p.Header.Revision))
			}
			c.All()
		}},
		Case{Name: "namespace", Run: func(c *C) {
			client := c.Client()
			kv := namespace.NewKV(client.KV, "ns/")
			watcher := namespace.NewWatcher(client.Watcher, "ns/")
			ch := watcher.Watch(c.Ctx, "a", clientv3.WithCreatedNotify())
			<-ch
			_, err := kv.Put(c.Ctx, "a", "1")
			c.Must(err)
			c.Put("zz=outside")
			p, err := kv.Get(c.Ctx, "", clientv3.WithFromKey())
			c.Must(err)
			for _, one := range p.Kvs {
				c.Log("%s=%s", one.Key, one.Value)
			}
			clientEvents(c, ch, 1)
			_, err = kv.Txn(c.Ctx).If(clientv3util.KeyMissing("b")).Then(clientv3.OpPut("b", "2")).Commit()
			c.Must(err)
			c.All()
		}},
		Case{Name: "leasing", Run: func(c *C) {
			kv, closeKV, err := leasing.NewKV(c.Client(), "lz/")
			c.Must(err)
			defer closeKV()
			c.Put("a=1")
			for range 3 {
				p, err := kv.Get(c.Ctx, "a")
				c.Must(err)
				c.Log("%s", p.Kvs[0].Value)
			}
			_, err = kv.Put(c.Ctx, "a", "2")
			c.Must(err)
			p, err := kv.Get(c.Ctx, "a")
			c.Must(err)
			c.Log("%s", p.Kvs[0].Value)
		}},
		Case{Name: "ordering", Run: func(c *C) {
			kv := ordering.NewKV(c.Client().KV, func(clientv3.Op, clientv3.OpResponse, int64) error {
				return fmt.Errorf("went back")
			})
			for i := range 3 {
				_, err := kv.Put(c.Ctx, "a", fmt.Sprint(i))
				c.Must(err)
				p, err := kv.Get(c.Ctx, "a", clientv3.WithSerializable())
				c.Log("%s", harness.Error(err))
				c.Log("at least one %v", len(p.Kvs) == 1)
			}
		}},
		Case{Name: "mirror", Run: func(c *C) {
			c.Put("m/1=a", "m/2=b", "m/3=c")
			s := mirror.NewSyncer(c.Client(), "m/", 0)
			pages, errs := s.SyncBase(c.Ctx)
			n := 0
			for p := range pages {
				n += len(p.Kvs)
			}
			c.Must(<-errs)
			c.Log("%d keys", n)
			ch := s.SyncUpdates(c.Ctx)
			c.Put("m/1=d")
			clientEvents(c, ch, 1)
		}},
		Case{Name: "kubernetes", Run: func(c *C) {
			client, err := kubernetes.New(clientv3.Config{Endpoints: []string{c.M.Endpoint()}})
			c.Must(err)
			defer client.Close()
			p, err := client.Kubernetes.OptimisticPut(c.Ctx, "k/a", []byte("1"), 0, kubernetes.PutOptions{})
			c.Must(err)
			c.Log("%v %s", p.Succeeded, c.Revision(p.Revision))
			p, err = client.Kubernetes.OptimisticPut(c.Ctx, "k/a", []byte("2"), 0,
				kubernetes.PutOptions{GetOnFailure: true})
			c.Must(err)
			c.Log("%v %s %s", p.Succeeded, c.Revision(p.Revision), p.KV.Value)
			l, err := client.Kubernetes.List(c.Ctx, "k/", kubernetes.ListOptions{Limit: 1})
			c.Must(err)
			c.Log("%d of %d", len(l.Kvs), l.Count)
			n, err := client.Kubernetes.Count(c.Ctx, "k/", kubernetes.CountOptions{})
			c.Must(err)
			c.Log("count %d", n)
			d, err := client.Kubernetes.OptimisticDelete(c.Ctx, "k/a", c.Rev(1), kubernetes.DeleteOptions{})
			c.Must(err)
			c.Log("%v %s", d.Succeeded, c.Revision(d.Revision))
		}},
		Case{Name: "get options", Run: func(c *C) {
			client := c.Client()
			c.Put("p/b=1", "p/a=2", "q=3", "p/b=4")
			options := []struct {
				name string
				opts []clientv3.OpOption
			}{
				{"first key", clientv3.WithFirstKey()}, {"last key", clientv3.WithLastKey()},
				{"first create", clientv3.WithFirstCreate()}, {"last create", clientv3.WithLastCreate()},
				{"first rev", clientv3.WithFirstRev()}, {"last rev", clientv3.WithLastRev()},
			}
			for _, o := range options {
				p, err := client.Get(c.Ctx, "p/", o.opts...)
				c.Must(err)
				c.Log("%s: %d %v", o.name, p.Count, p.More)
				for _, one := range p.Kvs {
					c.Log("%s=%s %s", one.Key, one.Value, c.Revision(one.ModRevision))
				}
			}
		}},
		Case{Name: "streamed get", Run: func(c *C) {
			fill(c, 35)
			ch, err := c.Client().GetStream(c.Ctx, "k", clientv3.WithPrefix())
			c.Must(err)
			p, err := clientv3.GetStreamToGetResponse(ch)
			c.Must(err)
			c.Log("%d keys, count %d, more %v, header %s", len(p.Kvs), p.Count, p.More,
				c.Revision(p.Header.Revision))
		}},
		Case{Name: "errors are recognised", Run: func(c *C) {
			client := c.Client()
			_, err := client.Put(c.Ctx, "", "")
			c.Log("%T %s", err, harness.Error(err))
			_, err = client.Get(c.Ctx, "a", clientv3.WithRev(c.Rev(5)))
			c.Log("%T %s", err, harness.Error(err))
			_, err = client.Compact(c.Ctx, c.Rev(5))
			c.Log("%T %s", err, harness.Error(err))
			_, err = client.Revoke(c.Ctx, 999)
			c.Log("%T %s", err, harness.Error(err))
		}},
	)
}
