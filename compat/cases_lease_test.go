package compat

import (
	"context"
	"io"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// TTL logs a lease's time to live; the remaining time is only checked to be near.
func (c *C) TTL(id int64, keys bool) {
	p, err := c.Lease.LeaseTimeToLive(c.Ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
	if err != nil {
		c.Log("ttl: %s", harness.Error(err))
		return
	}
	if p.TTL > 0 && p.TTL <= p.GrantedTTL && p.TTL >= p.GrantedTTL-10 {
		p.TTL = 1111 // within the expected window
	}
	sort.Slice(p.Keys, func(i, j int) bool { return string(p.Keys[i]) < string(p.Keys[j]) })
	c.Log("ttl: %s", c.Message(p))
}

// Leases logs the leases in the order of their ids.
func (c *C) Leases() {
	p, err := c.Lease.LeaseLeases(c.Ctx, &pb.LeaseLeasesRequest{})
	if err == nil {
		sort.Slice(p.Leases, func(i, j int) bool { return p.Leases[i].ID < p.Leases[j].ID })
	}
	c.Answer("leases", p, err)
}

// KeepAlive sends the ids on one stream and logs the answers.
func (c *C) KeepAlive(ids ...int64) {
	ctx, cancel := context.WithCancel(c.Ctx)
	defer cancel()
	stream, err := c.Lease.LeaseKeepAlive(ctx)
	c.Must(err)
	for _, id := range ids {
		c.Must(stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
	}
	for range ids {
		p, err := stream.Recv()
		c.Answer("keepalive", p, err)
		if err != nil {
			return
		}
	}
	c.Must(stream.CloseSend())
	if _, err := stream.Recv(); err != io.EOF {
		c.Log("keepalive end: %s", harness.Error(err))
	}
}

func init() {
	leased := func(key string, lease int64) *pb.PutRequest {
		return &pb.PutRequest{Key: b(key), Value: b("v"), Lease: lease}
	}
	register("lease",
		Case{Name: "grant", Run: func(c *C) { c.Grant(9, 60); c.TTL(9, false) }},
		Case{Name: "grant chooses an id", Run: func(c *C) {
			p, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{TTL: 60})
			c.Must(err)
			c.Name(uint64(p.ID), "chosen")
			c.Answer("grant", p, err)
			c.Log("positive %v, from the member id %v", p.ID > 0,
				uint64(p.ID)>>48 == c.Self&0x7fff)
			c.Leases()
		}},
		Case{Name: "grant of a used id", Run: func(c *C) { c.Grant(9, 60); c.Grant(9, 70); c.TTL(9, false) }},
		Case{Name: "grant of a negative id", Run: func(c *C) { c.Grant(-9, 60); c.TTL(-9, false); c.Revoke(-9) }},
		Case{Name: "short ttls are raised", Run: func(c *C) {
			for i, ttl := range []int64{1, 0, -1, -9223372036854775808, 2, 3} {
				c.Grant(int64(100+i), ttl)
			}
		}},
		Case{Name: "ttl limits", Run: func(c *C) {
			c.Grant(5, 9000000000)
			c.Grant(6, 9000000001)
			c.Grant(7, 9223372036854775807)
			c.TTL(5, false)
			c.Leases()
		}},
		Case{Name: "min ttl follows the election timeout",
			Flags: []string{"--heartbeat-interval=200", "--election-timeout=5000"},
			Run:   func(c *C) { c.Grant(5, 1) }},
		Case{Name: "min ttl of odd ticks",
			Flags: []string{"--heartbeat-interval=130", "--election-timeout=1500"},
			Run:   func(c *C) { c.Grant(5, 1) }},
		Case{Name: "grant makes no revision", Run: func(c *C) { c.Grant(5, 60); c.Grant(6, 60); c.All() }},
		Case{Name: "revoke", Run: func(c *C) { c.Grant(5, 60); c.Revoke(5); c.Revoke(5); c.TTL(5, true) }},
		Case{Name: "revoke of an unknown id", Run: func(c *C) { c.Revoke(4711); c.Revoke(0); c.Revoke(-1) }},
		Case{Name: "revoke deletes keys in one revision", Run: func(c *C) {
			c.Grant(5, 60)
			for _, key := range []string{"c", "a", "b"} {
				c.PutReq(leased(key, 5))
			}
			c.Revoke(5)
			c.All()
			c.Range(all(&pb.RangeRequest{Revision: c.Rev(3)}))
		}},
		Case{Name: "revoke without keys makes no revision", Run: func(c *C) {
			c.Grant(5, 60)
			c.Revoke(5)
			c.All()
		}},
		Case{Name: "ttl of an unknown lease", Run: func(c *C) { c.TTL(4711, true); c.TTL(0, false) }},
		Case{Name: "ttl with keys", Run: func(c *C) {
			c.Grant(5, 60)
			c.TTL(5, true)
			c.PutReq(leased("b", 5))
			c.PutReq(leased("a", 5))
			c.PutReq(leased("a", 5))
			c.TTL(5, true)
			c.TTL(5, false)
			c.Delete("a")
			c.TTL(5, true)
		}},
		Case{Name: "leases", Run: func(c *C) {
			c.Leases()
			for _, id := range []int64{30, 10, 20} {
				c.Grant(id, 60)
			}
			c.Leases()
		}},
		Case{Name: "leases are in the order of expiry", Run: func(c *C) {
			c.Grant(1, 900)
			c.Grant(2, 100)
			c.Grant(3, 500)
			p, err := c.Lease.LeaseLeases(c.Ctx, &pb.LeaseLeasesRequest{})
			c.Answer("leases", p, err)
		}},
		Case{Name: "keepalive", Run: func(c *C) { c.Grant(5, 60); c.KeepAlive(5, 5) }},
		Case{Name: "keepalive of unknown leases", Run: func(c *C) { c.Grant(5, 60); c.KeepAlive(4711, 5, 0, -1) }},
		Case{Name: "keepalive after revoke", Run: func(c *C) { c.Grant(5, 60); c.Revoke(5); c.KeepAlive(5) }},
		Case{Name: "a key changes its lease", Run: func(c *C) {
			c.Grant(5, 60)
			c.Grant(6, 60)
			c.PutReq(leased("a", 5))
			c.PutReq(leased("a", 6))
			c.TTL(5, true)
			c.TTL(6, true)
			c.PutReq(&pb.PutRequest{Key: b("a")})
			c.TTL(6, true)
		}},
		Case{Name: "expiry deletes the keys in one revision", Run: func(c *C) {
			c.Grant(5, 1)
			for _, key := range []string{"c", "a", "b"} {
				c.PutReq(leased(key, 5))
			}
			w := c.Watch(&pb.WatchCreateRequest{Key: zero, RangeEnd: zero, PrevKv: true})
			w.Log(1)
			c.All()
			c.TTL(5, true)
			c.Leases()
			c.KeepAlive(5)
			c.PutReq(leased("x", 5))
			c.Revoke(5)
		}},
		Case{Name: "keepalive holds off expiry", Run: func(c *C) {
			c.Grant(5, 3)
			c.Grant(6, 2)
			c.PutReq(leased("held", 5))
			c.PutReq(leased("dropped", 6))
			ctx, cancel := context.WithCancel(c.Ctx)
			defer cancel()
			kept, err := c.Client().KeepAlive(ctx, 5)
			c.Must(err)
			w := c.Watch(&pb.WatchCreateRequest{Key: zero, RangeEnd: zero})
			w.Log(1)
			for range 2 { // the client renews every third of the time
				p, ok := <-kept
				c.Log("kept %v %d", ok, p.TTL)
			}
			c.All()
		}},
		Case{Name: "re-granting an expired id", Run: func(c *C) {
			c.Grant(5, 1)
			c.PutReq(leased("a", 5))
			c.Watch(&pb.WatchCreateRequest{Key: b("a")}).Log(1)
			c.Grant(5, 60)
			c.PutReq(leased("a", 5))
			c.All()
		}},
		Case{Name: "go client", Run: func(c *C) {
			client := c.Client()
			granted, err := client.Grant(c.Ctx, 60)
			c.Must(err)
			c.Name(uint64(granted.ID), "chosen")
			_, err = client.Put(c.Ctx, "a", "1", clientv3.WithLease(granted.ID))
			c.Log("put: %s", harness.Error(err))
			once, err := client.KeepAliveOnce(c.Ctx, granted.ID)
			c.Must(err)
			c.Log("once %d", once.TTL)
			left, err := client.TimeToLive(c.Ctx, granted.ID, clientv3.WithAttachedKeys())
			c.Must(err)
			c.Log("granted %d keys %q", left.GrantedTTL, left.Keys)
			_, err = client.KeepAliveOnce(c.Ctx, 99)
			c.Log("once: %s", harness.Error(err))
			_, err = client.Revoke(c.Ctx, granted.ID)
			c.Log("revoke: %s", harness.Error(err))
			c.All()
		}},
	)
}
