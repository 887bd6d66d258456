package compat

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// said is the outcome of a call that waits.
type said struct {
	p   proto.Message
	err error
}

func (c *C) lock(ctx context.Context, name string, lease int64) chan said {
	out := make(chan said, 1)
	go func() {
		p, err := lpb.NewLockClient(c.Conn).Lock(ctx, &lpb.LockRequest{Name: b(name), Lease: lease})
		out <- said{p, err}
	}()
	return out
}

func (c *C) campaign(ctx context.Context, name string, lease int64, value string) chan said {
	out := make(chan said, 1)
	go func() {
		p, err := epb.NewElectionClient(c.Conn).Campaign(ctx,
			&epb.CampaignRequest{Name: b(name), Lease: lease, Value: b(value)})
		out <- said{p, err}
	}()
	return out
}

// Said waits for the outcome and logs it.
func (c *C) Said(what string, out chan said) proto.Message {
	select {
	case s := <-out:
		c.Answer(what, s.p, s.err)
		return s.p
	case <-time.After(15 * time.Second):
		c.Fail("%s: no answer", what)
	}
	return nil
}

// Silent makes sure that a call waits.
func (c *C) Silent(what string, out chan said) {
	select {
	case s := <-out:
		c.Answer(what+" did not wait", s.p, s.err)
	case <-time.After(50 * time.Millisecond):
	}
}

// Present waits until there is a key, or until there is none, and says so.
func (c *C) Present(key string, want bool) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		p, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: b(key)})
		c.Must(err)
		if len(p.Kvs) == 1 == want {
			c.Log("%s is there: %v", key, want)
			return
		}
		if time.Now().After(deadline) {
			c.Fail("%s is there: %v", key, !want)
		}
	}
}

// grants makes leases without logging.
func (c *C) grants(ids ...int64) {
	for _, id := range ids {
		_, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{ID: id, TTL: 300})
		c.Must(err)
	}
}

func (c *C) unlock(key string) {
	call(c, "unlock", lpb.NewLockClient(c.Conn).Unlock, &lpb.UnlockRequest{Key: b(key)})
}

// observer gathers what an observer is told.
func (c *C) observer(ctx context.Context, name string) (chan *epb.LeaderResponse, chan error) {
	stream, err := epb.NewElectionClient(c.Conn).Observe(ctx, &epb.LeaderRequest{Name: b(name)})
	c.Must(err)
	told, end := make(chan *epb.LeaderResponse, 100), make(chan error, 1)
	go func() {
		for {
			p, err := stream.Recv()
			if err != nil {
				end <- err
				return
			}
			told <- p
		}
	}()
	return told, end
}

func (c *C) observed(told chan *epb.LeaderResponse) {
	select {
	case p := <-told:
		c.Log("observed: %s", c.Message(p))
	case <-time.After(15 * time.Second):
		c.Fail("nothing observed")
	}
}

func init() {
	register("lock",
		Case{Name: "held, waited for and handed over", Run: func(c *C) {
			c.grants(0xa1, 0xb2, 0xc3)
			c.Said("first", c.lock(c.Ctx, "l", 0xa1))
			c.Said("first again", c.lock(c.Ctx, "l", 0xa1))
			second := c.lock(c.Ctx, "l", 0xb2)
			c.Present("l/b2", true)
			third := c.lock(c.Ctx, "l", 0xc3)
			c.Present("l/c3", true)
			c.Silent("second", second)
			c.All()
			c.unlock("l/a1")
			c.Said("second", second)
			c.Silent("third", third)
			c.unlock("l/b2")
			c.Said("third", third)
			c.unlock("l/c3")
			c.unlock("l/c3")
			c.All()
		}},
		Case{Name: "a waiter in the middle goes", Run: func(c *C) {
			c.grants(1, 2, 3)
			c.Said("first", c.lock(c.Ctx, "l", 1))
			second := c.lock(c.Ctx, "l", 2)
			c.Present("l/2", true)
			third := c.lock(c.Ctx, "l", 3)
			c.Present("l/3", true)
			c.unlock("l/2")
			c.Silent("third", third)
			c.unlock("l/1")
			c.Said("third", third)
			c.Said("second, whose key is gone", second)
			c.All()
		}},
		Case{Name: "names", Run: func(c *C) {
			c.grants(7)
			for _, name := range []string{"", "a", "a/b", "\x00", "\xff\xff"} {
				c.Said(fmt.Sprintf("%q", name), c.lock(c.Ctx, name, 7))
			}
			inside := c.lock(c.Ctx, "a", 7) // "a/b/7" lies under "a/", and is younger
			c.Said("a again", inside)
			c.unlock("a/7")
			outside := c.lock(c.Ctx, "a", 7) // now it is older
			c.Present("a/7", true)
			c.Silent("a", outside)
			c.unlock("a/b/7")
			c.Said("a", outside)
			c.All()
			c.unlock("")
			c.unlock("/7")
		}},
		Case{Name: "leases", Run: func(c *C) {
			c.Said("unknown", c.lock(c.Ctx, "l", 404))
			c.Said("negative", c.lock(c.Ctx, "l", -1))
			c.Said("large", c.lock(c.Ctx, "l", 1<<62+5))
			p, err := lpb.NewLockClient(c.Conn).Lock(c.Ctx, &lpb.LockRequest{Name: b("l")})
			c.Must(err)
			kvs, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: p.Key})
			c.Must(err)
			kv := kvs.Kvs[0]
			c.Log("own lease: %v, value %q, header %s", string(p.Key) == fmt.Sprintf("l/%x", kv.Lease), kv.Value,
				c.Revision(p.Header.Revision))
			ttl, err := c.Lease.LeaseTimeToLive(c.Ctx, &pb.LeaseTimeToLiveRequest{ID: kv.Lease, Keys: true})
			c.Must(err)
			c.Log("granted %d, %d key", ttl.GrantedTTL, len(ttl.Keys))
			c.Present("l/404", false)
		}},
		Case{Name: "a foreign key", Run: func(c *C) {
			c.grants(1, 2)
			c.Said("first", c.lock(c.Ctx, "l", 1))
			second := c.lock(c.Ctx, "l", 2)
			c.Present("l/2", true)
			c.Put("m/1=x")
			c.unlock("m/1")
			c.Silent("second", second)
			c.unlock("l/1")
			c.Said("second", second)
			c.All()
		}},
		Case{Name: "keys of others under the name", Run: func(c *C) {
			c.grants(1, 2)
			c.Put("l/zzz=older", "l0=after", "l=before", "l.=before")
			first := c.lock(c.Ctx, "l", 1)
			c.Present("l/1", true)
			c.Silent("first", first)
			c.Put("l/zzz=changed")
			c.Silent("first", first)
			c.Delete("l/zzz")
			c.Said("first", first)
			c.Put("l/aaa=newer")
			c.Said("first again", c.lock(c.Ctx, "l", 1))
			second := c.lock(c.Ctx, "l", 2)
			c.Present("l/2", true)
			_, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: b("l/"), RangeEnd: b("l/2")})
			c.Must(err)
			c.Silent("second", second)
			c.Delete("l/aaa")
			c.Said("second", second)
		}},
		Case{Name: "waits that are cancelled", Run: func(c *C) {
			c.grants(1, 2, 3, 4)
			c.Said("first", c.lock(c.Ctx, "l", 1))
			late, cancelLate := context.WithTimeout(c.Ctx, 300*time.Millisecond)
			defer cancelLate()
			second := c.lock(late, "l", 2)
			c.Present("l/2", true)
			gone, cancel := context.WithCancel(c.Ctx)
			third := c.lock(gone, "l", 3)
			c.Present("l/3", true)
			fourth := c.lock(c.Ctx, "l", 4)
			c.Present("l/4", true)
			cancel()
			c.Said("cancelled", third)
			c.Present("l/3", false)
			c.Log("too late: %s", grpcCode((<-second).err)) // the text is the client's or the server's
			c.Present("l/2", false)
			c.Silent("fourth", fourth)
			c.unlock("l/1")
			c.Said("fourth", fourth)
		}},
		Case{Name: "a waiter whose connection is cut", Run: func(c *C) {
			c.grants(1, 2)
			c.Said("first", c.lock(c.Ctx, "l", 1))
			other, err := c.M.Dial()
			c.Must(err)
			mine := c.Conn
			c.Conn = other
			_ = c.lock(c.Ctx, "l", 2)
			c.Present("l/2", true)
			other.Close()
			c.Conn = mine
			c.Present("l/2", false)
		}},
		Case{Name: "the holder's lease ends", Run: func(c *C) {
			c.grants(2, 3)
			_, err := c.Lease.LeaseGrant(c.Ctx, &pb.LeaseGrantRequest{ID: 1, TTL: 1})
			c.Must(err)
			c.Said("first", c.lock(c.Ctx, "l", 1))
			second := c.lock(c.Ctx, "l", 2)
			c.Present("l/2", true)
			third := c.lock(c.Ctx, "l", 3)
			c.Present("l/3", true)
			c.Revoke(3)
			c.Silent("third", third)
			c.Said("second", second)
			c.Silent("third, whose lease is gone", third)
			c.unlock("l/2")
			c.Said("third", third)
			c.All()
		}},
		Case{Name: "fifty wait in order", Run: func(c *C) {
			const count = 50
			var outs []chan said
			for i := range int64(count) {
				c.grants(i + 1)
				outs = append(outs, c.lock(c.Ctx, "l", i+1))
				c.Present(fmt.Sprintf("l/%x", i+1), true)
			}
			for i, out := range outs {
				c.Said(fmt.Sprint(i), out)
				if i+1 < count {
					select {
					case s := <-outs[i+1]:
						c.Answer("out of order", s.p, s.err)
					default:
					}
				}
				c.unlock(fmt.Sprintf("l/%x", i+1))
			}
		}},
		Case{Name: "together with the client library", Run: func(c *C) {
			client := c.Client()
			grant := func() int64 {
				p, err := client.Grant(c.Ctx, 60)
				c.Must(err)
				return int64(p.ID)
			}
			own, foreign := grant(), grant()
			s, err := concurrency.NewSession(client, concurrency.WithLease(clientv3.LeaseID(own)))
			c.Must(err)
			m := concurrency.NewMutex(s, "l")
			c.Must(m.Lock(c.Ctx))
			waits := c.lock(c.Ctx, "l", foreign)
			c.Present2(fmt.Sprintf("l/%x", foreign))
			c.Silent("service", waits)
			c.Must(m.Unlock(c.Ctx))
			got := <-waits
			c.Must(got.err)
			c.Log("the service's turn")
			back := make(chan error, 1)
			go func() { back <- m.Lock(c.Ctx) }()
			c.Present2(fmt.Sprintf("l/%x", own))
			_, err = lpb.NewLockClient(c.Conn).Unlock(c.Ctx, &lpb.UnlockRequest{Key: got.p.(*lpb.LockResponse).Key})
			c.Must(err)
			c.Must(<-back)
			c.Log("the library's turn")
		}},
		Case{Name: "no space", Run: func(c *C) {
			c.grants(1)
			_, err := c.Maint.Alarm(c.Ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: c.Self,
				Alarm: pb.AlarmType_NOSPACE})
			c.Must(err)
			c.Said("lock", c.lock(c.Ctx, "l", 1))
			c.Said("lock without lease", c.lock(c.Ctx, "l", 0))
			c.Said("campaign", c.campaign(c.Ctx, "l", 1, "v"))
			c.unlock("l/1")
		}},
		Case{Name: "large", Run: func(c *C) {
			c.grants(1)
			c.Said("lock", c.lock(c.Ctx, strings.Repeat("n", 2_000_000), 1))
			c.Said("lock", c.lock(metadata.AppendToOutgoingContext(c.Ctx, "client-api-version", "\xff"), "l", 1))
		}},
		Case{Name: "stopped while one waits", Own: true, Run: func(c *C) {
			c.grants(1, 2, 3)
			c.Said("first", c.lock(c.Ctx, "l", 1))
			waits := c.lock(c.Ctx, "l", 2)
			c.Present("l/2", true)
			elect := c.campaign(c.Ctx, "l", 3, "v")
			c.Present("l/3", true)
			_, end := c.observer(c.Ctx, "l")
			c.Must(syscall.Kill(c.M.Pid(), syscall.SIGTERM))
			c.Log("%s %s %s", grpcCode((<-waits).err), grpcCode((<-elect).err), grpcCode(<-end))
			<-c.M.Exited()
			c.Must(c.M.Start())
			c.Present("l/1", true)
			c.All()
		}},
	)
	register("election",
		Case{Name: "campaign, proclaim, resign", Run: func(c *C) {
			e := epb.NewElectionClient(c.Conn)
			c.grants(0xa, 0xb)
			call(c, "leader", e.Leader, &epb.LeaderRequest{Name: b("e")})
			first, ok := c.Said("first", c.campaign(c.Ctx, "e", 0xa, "one")).(*epb.CampaignResponse)
			if !ok || first.GetLeader() == nil {
				c.Fail("not elected")
			}
			call(c, "leader", e.Leader, &epb.LeaderRequest{Name: b("e")})
			second := c.campaign(c.Ctx, "e", 0xb, "two")
			c.Present("e/b", true)
			c.Silent("second", second)
			call(c, "proclaim", e.Proclaim, &epb.ProclaimRequest{Leader: first.Leader, Value: b("more")})
			call(c, "leader", e.Leader, &epb.LeaderRequest{Name: b("e")})
			c.Said("the same", c.campaign(c.Ctx, "e", 0xa, "more"))
			c.Said("another value", c.campaign(c.Ctx, "e", 0xa, "other"))
			call(c, "leader", e.Leader, &epb.LeaderRequest{Name: b("e")})
			call(c, "resign", e.Resign, &epb.ResignRequest{Leader: first.Leader})
			c.Said("second", second)
			call(c, "proclaim of the past", e.Proclaim, &epb.ProclaimRequest{Leader: first.Leader, Value: b("x")})
			call(c, "resign of the past", e.Resign, &epb.ResignRequest{Leader: first.Leader})
			call(c, "leader", e.Leader, &epb.LeaderRequest{Name: b("e")})
			c.All()
		}},
		Case{Name: "what is missing", Run: func(c *C) {
			e := epb.NewElectionClient(c.Conn)
			call(c, "proclaim", e.Proclaim, &epb.ProclaimRequest{Value: b("x")})
			call(c, "resign", e.Resign, &epb.ResignRequest{})
			call(c, "proclaim", e.Proclaim, &epb.ProclaimRequest{Leader: &epb.LeaderKey{Lease: 404}, Value: b("x")})
			call(c, "resign", e.Resign, &epb.ResignRequest{Leader: &epb.LeaderKey{Lease: 404}})
			call(c, "resign", e.Resign, &epb.ResignRequest{Leader: &epb.LeaderKey{Lease: 404, Key: b("k"), Rev: 3}})
			call(c, "proclaim", e.Proclaim, &epb.ProclaimRequest{Leader: &epb.LeaderKey{Lease: 404, Key: b("k")}, Value: b("x")})
			call(c, "leader", e.Leader, &epb.LeaderRequest{})
			c.Said("no name", c.campaign(c.Ctx, "", 404, "x"))
			c.grants(5)
			c.Said("no name", c.campaign(c.Ctx, "", 5, ""))
			call(c, "leader", e.Leader, &epb.LeaderRequest{})
			c.All()
		}},
		Case{Name: "leases that are made", Run: func(c *C) {
			e := epb.NewElectionClient(c.Conn)
			count := func(what string) {
				p, err := c.Lease.LeaseLeases(c.Ctx, &pb.LeaseLeasesRequest{})
				c.Must(err)
				c.Log("leases after %s: %d", what, len(p.Leases))
			}
			count("nothing")
			p, err := e.Campaign(c.Ctx, &epb.CampaignRequest{Name: b("e"), Value: b("v")})
			c.Must(err)
			c.Log("own lease %v, rev %s", string(p.Leader.Key) == fmt.Sprintf("e/%x", p.Leader.Lease), c.Revision(p.Leader.Rev))
			count("campaign")
			_, err = e.Leader(c.Ctx, &epb.LeaderRequest{Name: b("e")})
			c.Must(err)
			count("leader")
			p.Leader.Lease = 0
			_, err = e.Proclaim(c.Ctx, &epb.ProclaimRequest{Leader: p.Leader, Value: b("w")})
			c.Log("proclaim: %s", harness.Error(err))
			count("proclaim")
			_, err = e.Resign(c.Ctx, &epb.ResignRequest{Leader: p.Leader})
			c.Log("resign: %s", harness.Error(err))
			count("resign")
		}},
		Case{Name: "a candidate whose lease ends", Run: func(c *C) {
			c.grants(1, 2)
			c.Said("first", c.campaign(c.Ctx, "e", 1, "one"))
			second := c.campaign(c.Ctx, "e", 2, "two")
			c.Present("e/2", true)
			c.Revoke(2)
			c.Silent("second", second)
			c.Revoke(1)
			c.Said("second", second)
			c.All()
		}},
		Case{Name: "candidates that give up", Run: func(c *C) {
			c.grants(1, 2, 3)
			c.Said("first", c.campaign(c.Ctx, "e", 1, "one"))
			ctx, cancel := context.WithCancel(c.Ctx)
			second := c.campaign(ctx, "e", 2, "two")
			c.Present("e/2", true)
			late, cancelLate := context.WithTimeout(c.Ctx, 200*time.Millisecond)
			defer cancelLate()
			third := c.campaign(late, "e", 3, "three")
			c.Present("e/3", true)
			cancel()
			c.Said("second", second)
			c.Present("e/2", false)
			c.Log("third: %s", grpcCode((<-third).err))
			c.Present("e/3", false)
		}},
		Case{Name: "observe", Run: func(c *C) {
			e := epb.NewElectionClient(c.Conn)
			c.grants(1, 2, 3)
			ctx, cancel := context.WithCancel(c.Ctx)
			told, end := c.observer(ctx, "e")
			time.Sleep(100 * time.Millisecond)
			first := c.Said("first", c.campaign(c.Ctx, "e", 1, "one")).(*epb.CampaignResponse)
			c.observed(told)
			second := c.campaign(c.Ctx, "e", 2, "two")
			c.Present("e/2", true)
			third := c.campaign(c.Ctx, "e", 3, "three")
			c.Present("e/3", true)
			for _, value := range []string{"1a", "1b", "1b"} {
				call(c, "proclaim", e.Proclaim, &epb.ProclaimRequest{Leader: first.Leader, Value: b(value)})
				c.observed(told)
			}
			later, _ := c.observer(ctx, "e")
			c.observed(later)
			call(c, "resign", e.Resign, &epb.ResignRequest{Leader: first.Leader})
			c.Said("second", second)
			c.observed(told)
			c.observed(later)
			c.Revoke(2)
			c.Said("third", third)
			c.observed(told)
			c.Revoke(3)
			c.Put("e=beside", "e0=beside")
			time.Sleep(100 * time.Millisecond)
			c.Put("e/by hand=four")
			c.observed(told)
			c.observed(later)
			c.observed(later)
			cancel()
			c.Log("end: %s", harness.Error(<-end))
		}},
		Case{Name: "together with the client library", Run: func(c *C) {
			s := c.session()
			library := concurrency.NewElection(s, "e")
			c.Must(library.Campaign(c.Ctx, "library"))
			e := epb.NewElectionClient(c.Conn)
			p, err := e.Leader(c.Ctx, &epb.LeaderRequest{Name: b("e")})
			c.Must(err)
			c.Log("leader %q, the library's: %v", p.Kv.Value, string(p.Kv.Key) == library.Key())
			c.grants(9)
			waits := c.campaign(c.Ctx, "e", 9, "service")
			c.Present("e/9", true)
			told := library.Observe(c.Ctx)
			seen := func() {
				select {
				case p := <-told:
					c.Log("the library observes %q", p.Kvs[0].Value)
				case <-time.After(10 * time.Second):
					c.Fail("nothing observed")
				}
			}
			seen()
			c.Must(library.Resign(c.Ctx))
			if s := <-waits; s.err != nil {
				c.Fail("%v", s.err)
			}
			seen()
		}},
	)
}

// Present2 waits for a key whose name differs between the servers.
func (c *C) Present2(key string) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		p, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: b(key)})
		c.Must(err)
		if len(p.Kvs) == 1 {
			return
		}
	}
	c.Fail("no key")
}
