package compat

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"quorate/compat/harness"
)

// span is what a collector was sent, with who sent it.
type span struct {
	*trace.Span
	resource, scope string
}

// tracesCollector is an OTLP collector.
type tracesCollector struct {
	collector.UnimplementedTraceServiceServer
	address string
	mu      sync.Mutex
	spans   []span
}

func newCollector(t *testing.T) *tracesCollector {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &tracesCollector{address: listener.Addr().String()}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return c
}

func (c *tracesCollector) Export(
	_ context.Context, q *collector.ExportTraceServiceRequest,
) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range q.ResourceSpans {
		for _, s := range r.ScopeSpans {
			for _, one := range s.Spans {
				c.spans = append(c.spans, span{one, attributes(r.Resource.Attributes, true), s.Scope.Name})
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// of waits for the spans of a trace until there are n of them.
func (c *tracesCollector) of(id string, n int) []span {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c.mu.Lock()
		var found []span
		for _, one := range c.spans {
			if hex.EncodeToString(one.TraceId) == id {
				found = append(found, one)
			}
		}
		c.mu.Unlock()
		if len(found) >= n || time.Now().After(end) {
			return found
		}
	}
}

func attributes(list []*common.KeyValue, values bool) string {
	var texts []string
	for _, one := range list {
		text := one.Key
		if values {
			text += "=" + one.Value.String()
		}
		texts = append(texts, strings.Join(strings.Fields(text), " "))
	}
	sort.Strings(texts)
	return strings.Join(texts, " ")
}

// traced is one request, and how many spans it makes.
type traced struct {
	what  string
	spans int
	ask   func(context.Context, *grpc.ClientConn)
}

var tracedRequests = []traced{
	{"put", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: b("a"), Value: b("1")})
	}},
	{"refused put", 1, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Value: b("1")})
	}},
	{"put under no lease", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: b("a"), Lease: 99})
	}},
	{"range", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: b("a"), RangeEnd: b("b"), Limit: 3})
	}},
	{"range of the future", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: b("a"), Revision: 999, Serializable: true})
	}},
	{"writing txn", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{never()},
			Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: b("s")})}, Failure: []*pb.RequestOp{putOp(&pb.PutRequest{Key: b("f")})}})
	}},
	{"reading txn", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{
			Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: b("a")}}}}})
	}},
	{"delete", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).DeleteRange(ctx, &pb.DeleteRangeRequest{Key: b("a")})
	}},
	{"compaction", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewKVClient(conn).Compact(ctx, &pb.CompactionRequest{Revision: 2})
	}},
	{"grant", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60, ID: 7})
	}},
	{"time to live", 1, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewLeaseClient(conn).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
	}},
	{"revoke", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewLeaseClient(conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7})
	}},
	{"range stream", 2, func(ctx context.Context, conn *grpc.ClientConn) {
		stream, err := pb.NewKVClient(conn).RangeStream(ctx, &pb.RangeRequest{Key: b("a")})
		for err == nil {
			_, err = stream.Recv()
		}
	}},
	{"watch", 1, func(ctx context.Context, conn *grpc.ClientConn) {
		ctx, cancel := context.WithCancel(ctx)
		stream, err := pb.NewWatchClient(conn).Watch(ctx)
		if err == nil {
			_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
				CreateRequest: &pb.WatchCreateRequest{Key: b("a")}}})
			_, _ = stream.Recv()
		}
		cancel()
	}},
	{"status", 1, func(ctx context.Context, conn *grpc.ClientConn) {
		_, _ = pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	}},
}

// TestTracing sends the same requests to both products, which send their spans to a collector: names,
// kinds, parents, attributes and events must be equal.
func TestTracing(t *testing.T) {
	out := both(func(kind harness.Kind) string {
		c := newCollector(t)
		m := harness.NewMember(kind, t.TempDir(), "--enable-distributed-tracing",
			"--distributed-tracing-address="+c.address, "--distributed-tracing-instance-id=one",
			"--distributed-tracing-service-name=two", "--distributed-tracing-sampling-rate=1000000")
		m.Env = append(m.Env, "OTEL_BSP_SCHEDULE_DELAY=50")
		t.Cleanup(m.Kill)
		if err := m.Start(); err != nil {
			return err.Error()
		}
		conn, err := m.Dial()
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		var told strings.Builder
		for n, one := range tracedRequests {
			id := fmt.Sprintf("0af7651916cd43dd8448eb211c8031%02x", n+1)
			// What the caller does not follow is not followed here either.
			for _, flags := range []string{"00", "01"} {
				one.ask(metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+id+"-b7ad6b7169203331-"+flags,
					"tracestate", "a=b"), conn)
			}
			fmt.Fprintf(&told, "== %s\n%s", one.what, describeSpans(c.of(id, one.spans), m))
		}
		// A trace may begin here.
		tracedRequests[0].ask(t.Context(), conn)
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			c.mu.Lock()
			begun := slices.ContainsFunc(c.spans, func(s span) bool {
				return len(s.ParentSpanId) == 0 && s.Name == "etcdserverpb.KV/Put" && s.Flags == 0x301
			})
			c.mu.Unlock()
			if begun {
				return told.String()
			}
			if time.Now().After(end) {
				return told.String() + "no trace begins here"
			}
		}
	})
	if out[0] != out[1] {
		t.Error(sideBySide(out[0], out[1]))
	}
	if !strings.Contains(out[0], "Receive raft result") {
		t.Errorf("etcd told nothing:\n%s", out[0])
	}
}

// describeSpans tells what is the same in every run; the times must be in order.
func describeSpans(spans []span, m *harness.Member) string {
	slices.SortFunc(spans, func(a, b span) int { return -strings.Compare(a.Kind.String(), b.Kind.String()) })
	var text strings.Builder
	for _, s := range spans {
		if s.Name == "watch" { // ours has none
			continue
		}
		parent := "the caller's"
		for _, other := range spans {
			if string(other.SpanId) == string(s.ParentSpanId) {
				parent = other.Name
			}
		}
		list := attributes(s.Attributes, true)
		list = strings.ReplaceAll(list, m.Endpoint()[strings.IndexByte(m.Endpoint(), ':')+1:], "PORT")
		fmt.Fprintf(&text, "%s %s %s\n  in %s of %q, flags %#x, state %s, status %s %q\n  %s\n", s.Name, s.Kind, s.scope,
			parent, s.resource, s.Flags, s.TraceState, s.Status.GetCode(), s.Status.GetMessage(), list)
		last := s.StartTimeUnixNano
		for _, event := range s.Events {
			fmt.Fprintf(&text, "  event %s %v\n", event.Name, event.TimeUnixNano >= last)
			last = event.TimeUnixNano
		}
		fmt.Fprintf(&text, "  times %v\n", s.EndTimeUnixNano >= last && last > 0)
	}
	return text.String()
}

// TestTracingWithoutCollector: nobody listens, or somebody who never answers; requests do not notice.
func TestTracingWithoutCollector(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, address := range []string{silent.Addr().String(), fmt.Sprintf("127.0.0.1:%d", harness.FreePort()), "no address"} {
		m := harness.Prepare(t, harness.Ours, "--enable-distributed-tracing",
			"--distributed-tracing-address="+address, "--distributed-tracing-sampling-rate=1000000")
		m.Env = append(m.Env, "OTEL_BSP_SCHEDULE_DELAY=10")
		harness.MustStart(t, m)
		client := m.Client()
		defer client.Close()
		count := 50
		if address == silent.Addr().String() {
			count = 1500 // more than the queue holds
		}
		for i := range count {
			if _, err := client.Put(t.Context(), fmt.Sprint(i%10), "x"); err != nil {
				t.Fatalf("%s: %v", address, err)
			}
		}
		harness.MustStop(t, m)
		said := strings.Count(m.Log(), "spans were not sent")
		if address != silent.Addr().String() && said != 1 {
			t.Errorf("%s: %d lines say that spans are lost\n%s", address, said, m.LogTail(5))
		}
	}
}
