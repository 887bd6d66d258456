package compat

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"

	"quorate/compat/harness"
)

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }

// Raw sends bytes as the message of a unary call and logs the error.
func (c *C) Raw(method string, body []byte) {
	var answer []byte
	err := c.Conn.Invoke(c.Ctx, method, &body, &answer, grpc.ForceCodec(rawCodec{}))
	c.Log("%s: %s", method, harness.Error(err))
}

// h2 sends a request by bare HTTP/2 and logs status, gRPC status and message.
func (c *C) h2(path string, headers map[string]string, body []byte) {
	transport := &http2.Transport{AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, c.M.Endpoint())
		}}
	defer transport.CloseIdleConnections()
	q, err := http.NewRequestWithContext(c.Ctx, "POST", c.M.ClientURL()+path, bytes.NewReader(body))
	c.Must(err)
	q.Header.Set("content-type", "application/grpc")
	q.Header.Set("te", "trailers")
	for name, value := range headers {
		if value == "" {
			q.Header.Del(name)
		} else {
			q.Header.Set(name, value)
		}
	}
	p, err := transport.RoundTrip(q)
	if err != nil {
		c.Log("%s: no answer", path)
		return
	}
	defer p.Body.Close()
	_, err = io.Copy(io.Discard, p.Body)
	get := func(name string) string {
		if value := p.Trailer.Get(name); value != "" {
			return value
		}
		return p.Header.Get(name)
	}
	message := strings.ReplaceAll(get("grpc-message"), "%C2%A0", " ")
	c.Log("%s: http %d %s, grpc %s %q, cut off %v", path, p.StatusCode, p.Header.Get("content-type"),
		get("grpc-status"), message, err != nil)
}

// frame is one gRPC message frame.
func frame(flag byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(body))), body...)
}

const rangePath, putPath = "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put"

func init() {
	register("wire",
		Case{Name: "malformed requests", Run: func(c *C) {
			for _, method := range []string{rangePath, putPath, "/etcdserverpb.KV/DeleteRange",
				"/etcdserverpb.KV/Txn", "/etcdserverpb.KV/Compact", "/etcdserverpb.Lease/LeaseGrant",
				"/etcdserverpb.Lease/LeaseRevoke", "/etcdserverpb.Maintenance/Status",
				"/etcdserverpb.Maintenance/Alarm", "/etcdserverpb.Maintenance/HashKV",
				"/etcdserverpb.Cluster/MemberList"} {
				c.Raw(method, []byte{0xff})
			}
			c.All()
		}},
		Case{Name: "kinds of malformed bytes", Run: func(c *C) {
			for _, body := range [][]byte{
				{0x0a}, {0x0a, 0x05, 'a'}, {0x08}, {0x00, 0x01}, {0x0b}, {0x0f},
				{0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
				bytes.Repeat([]byte{0xff}, 100),
			} {
				c.Raw(rangePath, body)
			}
		}},
		Case{Name: "fields of a wrong type and unknown fields", Run: func(c *C) {
			c.Raw(rangePath, []byte{0x0d, 1, 2, 3, 4, 0x0a, 1, 'a'}) // key as a number: etcd skips it
			c.Raw(rangePath, []byte{0x0a, 1, 'a', 0xfa, 0x7f, 1, 'x'})
			c.Raw(rangePath, []byte{0x0a, 1, 'a', 0x0a, 1, 'b'})
			c.Raw(putPath, []byte{0x0a, 1, 'a', 0x18, 0x80, 0x80, 0x00})
		}},
		Case{Name: "empty messages", Run: func(c *C) {
			for _, method := range []string{rangePath, putPath, "/etcdserverpb.KV/DeleteRange",
				"/etcdserverpb.KV/Txn", "/etcdserverpb.Lease/LeaseRevoke",
				"/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/HashKV",
				"/etcdserverpb.Cluster/MemberList", "/grpc.health.v1.Health/Check"} {
				c.Raw(method, nil)
			}
		}},
		Case{Name: "unknown method and service", Run: func(c *C) {
			for _, path := range []string{"/etcdserverpb.KV/Nonsense", "/etcdserverpb.KV/",
				"/nonsense.Service/Range", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
				"/etcdserverpb.KV/range", "/etcdserverpb.Watch/Nonsense",
				"/grpc.health.v1.Health/Nonsense"} {
				c.Raw(path, nil)
			}
		}},
		Case{Name: "malformed paths", Run: func(c *C) {
			for _, path := range []string{"/", "/etcdserverpb.KV", "//", "/a/b/c"} {
				c.h2(path, nil, frame(0, nil))
			}
		}},
		Case{Name: "larger than the limit", Run: func(c *C) {
			for _, n := range []int{2097152 - 8, 2097152 - 7, 2097153, 5 << 20} {
				call(c, fmt.Sprint(n), c.KV.Put,
					&pb.PutRequest{Key: b("a"), Value: make([]byte, n)})
			}
			c.All()
		}},
		Case{Name: "max-request-bytes", Flags: []string{"--max-request-bytes=1000"}, Run: func(c *C) {
			for _, n := range []int{800, 950, 1000, 525000, 525288, 600000} {
				call(c, fmt.Sprint(n), c.KV.Put,
					&pb.PutRequest{Key: b("a"), Value: make([]byte, n)})
			}
			_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: b("a"), Value: make([]byte, 900)})
			c.Must(err)
			c.All()
		}},
		Case{Name: "truncated frames", Run: func(c *C) {
			// Real etcd never answers a frame that was cut; only that it goes on serving is compared.
			whole, overall := frame(0, []byte{0x0a, 1, 'a'}), c.Ctx
			lines := len(c.lines)
			for n := range whole {
				var cancel context.CancelFunc
				c.Ctx, cancel = context.WithTimeout(overall, 50*time.Millisecond)
				c.h2(rangePath, nil, whole[:n])
				cancel()
			}
			c.Ctx, c.lines = overall, c.lines[:lines]
			c.h2(rangePath, nil, whole)
			c.All()
		}},
		Case{Name: "frame that announces too much", Run: func(c *C) {
			c.h2(rangePath, nil, []byte{0, 0xff, 0xff, 0xff, 0xff, 1})
			c.h2(rangePath, nil, []byte{0, 0x00, 0x20, 0x00, 0x01, 1})
			c.h2(putPath, nil, []byte{0, 0x7f, 0xff, 0xff, 0xff, 1})
		}},
		Case{Name: "unary call with two messages", Run: func(c *C) {
			one := frame(0, []byte{0x0a, 1, 'a'})
			c.h2(rangePath, nil, append(bytes.Clone(one), one...))
		}},
		Case{Name: "compressed flag without an encoding", Run: func(c *C) {
			c.h2(rangePath, nil, frame(1, []byte{0x0a, 1, 'a'}))
		}},
		Case{Name: "unknown flag", Run: func(c *C) { c.h2(rangePath, nil, frame(7, []byte{0x0a, 1, 'a'})) }},
		Case{Name: "unknown encodings", Run: func(c *C) {
			for _, name := range []string{"deflate", "zstd", "snappy", "nonsense"} {
				c.h2(rangePath, map[string]string{"grpc-encoding": name}, frame(1, []byte{1, 2, 3}))
				c.h2(rangePath, map[string]string{"grpc-encoding": name}, frame(0, []byte{0x0a, 1, 'a'}))
			}
		}},
		Case{Name: "broken gzip", Run: func(c *C) {
			c.h2(rangePath, map[string]string{"grpc-encoding": "gzip"}, frame(1, []byte{1, 2, 3}))
			c.h2(rangePath, map[string]string{"grpc-encoding": "identity"}, frame(0, []byte{0x0a, 1, 'a'}))
		}},
		Case{Name: "gzip", Run: func(c *C) {
			p, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: b("a"), Value: make([]byte, 10000)},
				grpc.UseCompressor("gzip"))
			c.Answer("put", p, err)
			q, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: b("a")}, grpc.UseCompressor("gzip"))
			c.Answer("range", q, err)
		}},
		Case{Name: "content types", Run: func(c *C) {
			for _, kind := range []string{"application/grpc+proto", "application/grpc+json",
				"application/json", "text/plain", "application/grpc;x"} {
				c.h2(rangePath, map[string]string{"content-type": kind}, frame(0, []byte{0x0a, 1, 'a'}))
			}
		}},
		Case{Name: "hasleader", Run: func(c *C) {
			ctx := metadata.AppendToOutgoingContext(c.Ctx, "hasleader", "true")
			p, err := c.KV.Put(ctx, &pb.PutRequest{Key: b("a")})
			c.Answer("put", p, err)
		}},
		Case{Name: "client api version", Run: func(c *C) {
			for _, version := range []string{"3.7", "nonsense", "", "\xff\xfe"} {
				ctx := metadata.AppendToOutgoingContext(c.Ctx, "client-api-version", version)
				p, err := c.KV.Put(ctx, &pb.PutRequest{Key: b("a")})
				c.Answer(fmt.Sprintf("put %q", version), p, err)
			}
		}},
		Case{Name: "tokens are ignored without auth", Run: func(c *C) {
			ctx := metadata.AppendToOutgoingContext(c.Ctx, "token", "nonsense", "authorization", "Bearer x")
			p, err := c.KV.Put(ctx, &pb.PutRequest{Key: b("a")})
			c.Answer("put", p, err)
		}},
		Case{Name: "timeouts in headers", Run: func(c *C) {
			for _, value := range []string{"1n", "0S", "nonsense", "99999999999S", "10S"} {
				headers := map[string]string{"grpc-timeout": value}
				if value == "1n" || value == "0S" {
					continue // which error comes first depends on timing
				}
				c.h2(rangePath, headers, frame(0, []byte{0x0a, 1, 'a'}))
			}
		}},
		Case{Name: "cancelled before it is sent", Run: func(c *C) {
			ctx, cancel := context.WithCancel(c.Ctx)
			cancel()
			p, err := c.KV.Put(ctx, &pb.PutRequest{Key: b("a")})
			c.Answer("put", p, err)
			c.All()
		}},
		Case{Name: "malformed message on a watch stream", Run: func(c *C) {
			c.h2("/etcdserverpb.Watch/Watch", nil, frame(0, []byte{0xff}))
			c.h2("/etcdserverpb.Lease/LeaseKeepAlive", nil, frame(0, []byte{0xff}))
			c.h2("/etcdserverpb.KV/RangeStream", nil, frame(0, []byte{0xff}))
			c.h2("/etcdserverpb.Maintenance/Snapshot", nil, frame(0, []byte{0xff}))
		}},
		Case{Name: "garbage instead of HTTP", Run: func(c *C) {
			for _, text := range []string{"\x00\x01\x02\x03\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage!!",
				"GET\r\n\r\n", strings.Repeat("x", 70000)} {
				conn, err := net.Dial("tcp", c.M.Endpoint())
				c.Must(err)
				_, _ = conn.Write([]byte(text))
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
			c.All()
		}},
		Case{Name: "bytes in keys are not text", Run: func(c *C) {
			c.Raw(putPath, []byte{0x0a, 2, 0xff, 0xfe, 0x12, 1, 0x80})
			c.All()
		}},
	)
}
