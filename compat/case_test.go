package compat

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// A Case talks to one server and leaves a transcript; the transcripts of real etcd and ours must be
// equal. It starts with no keys, no leases and no alarms; revisions in the transcript are relative
// to the one it started at.
type Case struct {
	Name  string
	Run   func(c *C)
	Own   bool     // wants a pair of fresh servers for itself
	Flags []string // further flags; imply Own
}

var cases []Case

// register adds the cases of a group; it is called from init functions.
func register(group string, list ...Case) {
	for _, one := range list {
		one.Name = group + "/" + one.Name
		cases = append(cases, one)
	}
}

// caseTimeout bounds one case on one server.
const caseTimeout = 40 * time.Second

// C is one run of a case on one server.
type C struct {
	harness.Normal
	Ctx     context.Context
	M       *harness.Member
	Conn    *grpc.ClientConn
	KV      pb.KVClient
	Watcher pb.WatchClient
	Lease   pb.LeaseClient
	Cluster pb.ClusterClient
	Maint   pb.MaintenanceClient

	Self   uint64 // the member's id
	lines  []string
	leases int
}

type abort string

// Log adds a line to the transcript.
func (c *C) Log(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	c.lines = append(c.lines, c.Text.Replace(line))
}

// Fail ends the case on this server; the reason becomes part of the transcript and fails the test.
func (c *C) Fail(format string, args ...any) {
	panic(abort(fmt.Sprintf(format, args...)))
}

// Must ends the case when a step that only prepares went wrong.
func (c *C) Must(err error) {
	if err != nil {
		c.Fail("preparing: %s", harness.Error(err))
	}
}

// Answer logs an answer or an error.
func (c *C) Answer(what string, m proto.Message, err error) {
	if err != nil {
		c.Log("%s: %s", what, harness.Error(err))
		return
	}
	c.Log("%s: %s", what, c.Message(m))
}

func call[Q any, P proto.Message](
	c *C, what string, f func(context.Context, Q, ...grpc.CallOption) (P, error), q Q,
) P {
	p, err := f(c.Ctx, q)
	c.Answer(what, p, err)
	return p
}

// The calls below log their answer.

func (c *C) Range(q *pb.RangeRequest) *pb.RangeResponse { return call(c, "range", c.KV.Range, q) }
func (c *C) PutReq(q *pb.PutRequest) *pb.PutResponse    { return call(c, "put", c.KV.Put, q) }
func (c *C) Del(q *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	return call(c, "delete", c.KV.DeleteRange, q)
}
func (c *C) Txn(q *pb.TxnRequest) *pb.TxnResponse { return call(c, "txn", c.KV.Txn, q) }
func (c *C) Compact(revision int64, physical bool) {
	call(c, "compact", c.KV.Compact, &pb.CompactionRequest{Revision: revision, Physical: physical})
}
func (c *C) HashKV(revision int64) *pb.HashKVResponse {
	return call(c, "hashkv", c.Maint.HashKV, &pb.HashKVRequest{Revision: revision})
}
func (c *C) Grant(id, ttl int64) *pb.LeaseGrantResponse {
	return call(c, "grant", c.Lease.LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
}
func (c *C) Revoke(id int64) {
	call(c, "revoke", c.Lease.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id})
}

// Rev is a revision relative to the start of the case.
func (c *C) Rev(n int64) int64 { return c.Base + n }

// Put writes without logging: one revision each, key=value.
func (c *C) Put(pairs ...string) int64 {
	var revision int64
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		p, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
		c.Must(err)
		revision = p.Header.Revision
	}
	return revision
}

// Delete removes one key without logging.
func (c *C) Delete(keys ...string) {
	for _, key := range keys {
		_, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
		c.Must(err)
	}
}

// All logs every key.
func (c *C) All() { c.Range(&pb.RangeRequest{Key: zero, RangeEnd: zero}) }

// Client is a real etcd client that ends with the case.
func (c *C) Client() *clientv3.Client {
	client := c.M.Client()
	context.AfterFunc(c.Ctx, func() { client.Close() })
	return client
}

var zero = []byte{0}

func b(s string) []byte { return []byte(s) }

// W is one watch stream.
type W struct {
	c      *C
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
	in     chan *pb.WatchResponse
	err    error // valid once in is closed
}

// Watch opens a watch stream and creates the watchers given.
func (c *C) Watch(creates ...*pb.WatchCreateRequest) *W {
	ctx, cancel := context.WithCancel(c.Ctx)
	stream, err := c.Watcher.Watch(ctx)
	c.Must(err)
	w := &W{c: c, stream: stream, cancel: cancel, in: make(chan *pb.WatchResponse, 4096)}
	go func() {
		defer close(w.in)
		for {
			p, err := stream.Recv()
			if err != nil {
				w.err = err
				return
			}
			w.in <- p
		}
	}()
	for _, q := range creates {
		w.Create(q)
	}
	return w
}

// Send sends without waiting.
func (w *W) Send(q *pb.WatchRequest) { w.c.Must(w.stream.Send(q)) }

// SendCreate sends a create request.
func (w *W) SendCreate(q *pb.WatchCreateRequest) {
	w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: q}})
}

// Create sends a create request and logs one answer.
func (w *W) Create(q *pb.WatchCreateRequest) *pb.WatchResponse {
	w.SendCreate(q)
	return w.Log(1)
}

// Cancel sends a cancel request.
func (w *W) Cancel(id int64) {
	w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

// Progress sends a progress request.
func (w *W) Progress() {
	w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{}}})
}

// Next is the next answer.
func (w *W) Next() *pb.WatchResponse {
	select {
	case p, ok := <-w.in:
		if !ok {
			w.c.Fail("the watch stream ended: %s", harness.Error(w.err))
		}
		return p
	case <-time.After(15 * time.Second):
		w.c.Fail("no watch answer")
	case <-w.c.Ctx.Done():
		w.c.Fail("no watch answer in the time of the case")
	}
	return nil
}

// Log logs the next n answers and returns the last.
func (w *W) Log(n int) *pb.WatchResponse {
	var p *pb.WatchResponse
	for range n {
		p = w.Next()
		w.c.Log("watch: %s", w.c.Message(p))
	}
	return p
}

// Events gathers n events of one watcher and logs them one by one, however they were batched; what
// belongs to one revision must have come in one answer.
func (w *W) Events(n int) {
	var events []*mvccpb.Event
	var last int64
	for len(events) < n {
		p := w.Next()
		if p.Canceled || len(p.Events) == 0 {
			w.c.Log("watch: %s", w.c.Message(p))
			return
		}
		if first := p.Events[0].Kv.ModRevision; first <= last {
			w.c.Log("revision %s came in two answers", w.c.Revision(first))
		}
		last = p.Events[len(p.Events)-1].Kv.ModRevision
		if p.Header.Revision < last {
			w.c.Log("header revision %d is below its events' %d", p.Header.Revision, last)
		}
		events = append(events, p.Events...)
	}
	for _, e := range events {
		w.c.Log("event: %s", w.c.Message(e))
	}
}

// Quiet makes sure that nothing is under way: a watcher that is created now must be answered next.
func (w *W) Quiet() {
	w.SendCreate(&pb.WatchCreateRequest{Key: b("quiet-fence")})
	p := w.Next()
	if !p.Created || len(p.Events) > 0 {
		w.c.Log("not quiet: %s", w.c.Message(p))
	}
}

// End waits for the end of the stream and logs it.
func (w *W) End() {
	for {
		select {
		case p, ok := <-w.in:
			if !ok {
				if w.err == io.EOF {
					w.c.Log("stream ended")
				} else {
					w.c.Log("stream: %s", harness.Error(w.err))
				}
				return
			}
			w.c.Log("watch: %s", w.c.Message(p))
		case <-time.After(15 * time.Second):
			w.c.Fail("the stream did not end")
		}
	}
}

// pair is real etcd and ours, both running.
type pair [2]*harness.Member

func launchPair(t *testing.T, flags ...string) pair {
	t.Helper()
	var p pair
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		p[kind] = harness.NewMember(kind, t.TempDir(), flags...)
		t.Cleanup(p[kind].Kill)
	}
	errs := both(func(k harness.Kind) error { return p[k].Start() })
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// both runs a function for both kinds at the same time.
func both[T any](f func(harness.Kind) T) [2]T {
	var out [2]T
	done := make(chan struct{})
	go func() {
		defer close(done)
		out[harness.Real] = f(harness.Real)
	}()
	out[harness.Ours] = f(harness.Ours)
	<-done
	return out
}

// runCase runs a case on one server and returns its transcript.
func runCase(one Case, m *harness.Member) (transcript string) {
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	defer cancel()
	c := &C{M: m, Ctx: ctx}
	c.Text = strings.NewReplacer(m.ClientURL(), "CLIENT-URL", m.PeerURL(), "PEER-URL",
		m.Endpoint(), "ENDPOINT")
	defer func() {
		if r := recover(); r != nil {
			reason, ok := r.(abort)
			if !ok {
				panic(r)
			}
			c.lines = append(c.lines, "ABORTED: "+string(reason))
		}
		transcript = strings.Join(c.lines, "\n") + "\n"
	}()
	conn, err := m.Dial()
	c.Must(err)
	defer conn.Close()
	c.Conn = conn
	c.KV, c.Watcher, c.Lease = pb.NewKVClient(conn), pb.NewWatchClient(conn), pb.NewLeaseClient(conn)
	c.Cluster, c.Maint = pb.NewClusterClient(conn), pb.NewMaintenanceClient(conn)
	c.reset()
	one.Run(c)
	return
}

// reset removes all keys, leases and alarms, and takes the base revision.
func (c *C) reset() {
	alarms, err := c.Maint.Alarm(c.Ctx, &pb.AlarmRequest{})
	c.Must(err)
	for _, alarm := range alarms.Alarms {
		_, err := c.Maint.Alarm(c.Ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm})
		c.Must(err)
	}
	leases, err := c.Lease.LeaseLeases(c.Ctx, &pb.LeaseLeasesRequest{})
	c.Must(err)
	for _, lease := range leases.Leases {
		_, err := c.Lease.LeaseRevoke(c.Ctx, &pb.LeaseRevokeRequest{ID: lease.ID})
		c.Must(err)
	}
	p, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: zero, RangeEnd: zero})
	c.Must(err)
	c.Base = p.Header.Revision
	c.Self = p.Header.MemberId
	c.Name(p.Header.MemberId, "self")
}

// compare runs a case on both servers and fails the test when the transcripts differ.
func compare(t *testing.T, one Case, p pair) {
	t.Helper()
	out := both(func(k harness.Kind) string { return runCase(one, p[k]) })
	for k, m := range p {
		if !m.Running() {
			t.Errorf("%s ended during the case: %s\n%s", harness.Kind(k), m.ExitText(), m.LogTail(30))
		}
	}
	if out[0] != out[1] {
		t.Errorf("answers differ\n%s", sideBySide(out[0], out[1]))
	} else if strings.Contains(out[0], "ABORTED:") {
		t.Errorf("the case did not run to its end on either server:\n%s", out[0])
	} else if testing.Verbose() {
		t.Logf("\n%s", out[0])
	}
}

// sideBySide shows equal lines once and differing lines of both.
func sideBySide(theirs, ours string) string {
	left, right := strings.Split(theirs, "\n"), strings.Split(ours, "\n")
	var out strings.Builder
	for i := range max(len(left), len(right)) {
		var l, r string
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		if l == r {
			fmt.Fprintf(&out, "         %s\n", l)
			continue
		}
		fmt.Fprintf(&out, "etcd:    %s\nquorate: %s\n", l, r)
	}
	return out.String()
}

// TestCases runs every case against real etcd and ours.
func TestCases(t *testing.T) {
	shared := launchPair(t)
	for _, one := range cases {
		t.Run(one.Name, func(t *testing.T) {
			if one.Own || len(one.Flags) > 0 {
				t.Parallel() // mostly waiting for servers to start
				compare(t, one, launchPair(t, one.Flags...))
				return
			}
			compare(t, one, shared)
			for _, m := range shared {
				if !m.Running() {
					harness.MustStart(t, m) // one crash should not hide the other cases
				}
			}
		})
	}
	if len(cases) < 200 {
		t.Errorf("only %d cases are registered", len(cases))
	}
}
