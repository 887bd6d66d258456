package compat

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"quorate/compat/harness"
)

// wire is one bare HTTP/2 connection that logs what it hears.
type wire struct {
	conn   net.Conn
	framer *http2.Framer
	mu     sync.Mutex // of what the framer writes
	frames chan string
	lines  []string
	stream uint32
	ping   byte
}

func dialWire(m *harness.Member) *wire {
	conn, err := net.Dial("tcp", m.Endpoint())
	if err != nil {
		panic(abort(err.Error()))
	}
	w := &wire{conn: conn, framer: http2.NewFramer(conn, conn), frames: make(chan string, 1000), stream: 1}
	w.write(func() error {
		_, _ = io.WriteString(conn, http2.ClientPreface)
		return w.framer.WriteSettings()
	})
	go w.listen()
	return w
}

// write says whether it could be written; what cannot be shows in what is heard.
func (w *wire) write(one func() error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return one() == nil
}

// listen passes on what both products send alike; settings and windows are a product's own.
func (w *wire) listen() {
	defer close(w.frames)
	for {
		frame, err := w.framer.ReadFrame()
		if err != nil {
			w.frames <- "closed"
			return
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				w.write(w.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if f.IsAck() {
				w.frames <- fmt.Sprint("pong ", f.Data[0])
			}
		case *http2.GoAwayFrame:
			w.frames <- fmt.Sprintf("go away: %v %q, last stream %d", f.ErrCode, f.DebugData(), f.LastStreamID)
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				w.frames <- fmt.Sprint("end of stream ", f.StreamID)
			}
		}
	}
}

// hear logs everything up to a line with this beginning, or the end.
func (w *wire) hear(beginning string) {
	limit := time.After(5 * time.Second)
	for {
		select {
		case line, open := <-w.frames:
			if !open {
				return
			}
			w.lines = append(w.lines, line)
			if strings.HasPrefix(line, beginning) || line == "closed" {
				return
			}
		case <-limit:
			w.lines = append(w.lines, "silence")
			return
		}
	}
}

// pings sends pings one after the other, each after the answer to the one before.
func (w *wire) pings(n int, pause time.Duration) {
	for range n {
		time.Sleep(pause)
		w.ping++
		if !w.write(func() error { return w.framer.WritePing(false, [8]byte{w.ping}) }) {
			return
		}
		w.hear("pong")
	}
}

// call begins a request; its stream stays open when only the headers are sent.
func (w *wire) call(path string, message []byte) {
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path},
		{":authority", "localhost"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	w.write(func() error {
		return w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: w.stream,
			BlockFragment: []byte(block.String()), EndHeaders: true})
	})
	if message != nil {
		w.write(func() error { return w.framer.WriteData(w.stream, true, frame(0, message)) })
		w.hear("end of stream")
	}
	w.stream += 2
}

// TestKeepalive compares how clients that ping too often are told to calm down.
func TestKeepalive(t *testing.T) {
	t.Parallel() // mostly waiting, as the others that say so
	const watchPath = "/etcdserverpb.Watch/Watch"
	short := []string{"--grpc-keepalive-min-time=50ms"}
	for _, one := range []struct {
		name  string
		flags []string
		run   func(*wire)
	}{
		{"no stream", nil, func(w *wire) { w.pings(6, 0); w.hear("closed") }},
		{"no stream, however long the pause", short, func(w *wire) { w.pings(6, 100*time.Millisecond); w.hear("closed") }},
		{"a stream", nil, func(w *wire) { w.call(watchPath, nil); w.pings(6, 0); w.hear("closed") }},
		{"a stream and patience", short, func(w *wire) {
			w.call(watchPath, nil)
			w.pings(6, 100*time.Millisecond)
			w.write(func() error { return w.framer.WriteRSTStream(1, http2.ErrCodeCancel) })
			w.pings(6, 100*time.Millisecond)
			w.hear("closed")
		}},
		{"answers forgive", nil, func(w *wire) {
			for range 4 {
				w.pings(2, 0)
				w.call(rangePath, []byte{0x0a, 1, 'a'})
			}
			w.pings(6, 0)
			w.hear("closed")
		}},
		{"zero is the default of the library", []string{"--grpc-keepalive-min-time=0"}, func(w *wire) {
			w.call(watchPath, nil)
			w.pings(6, 0)
			w.hear("closed")
		}},
		{"a port for gRPC alone", []string{"--listen-client-http-urls=http://127.0.0.1:0"},
			func(w *wire) { w.pings(6, 0); w.hear("closed") }},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			out := both(func(kind harness.Kind) string {
				w := dialWire(harness.Launch(t, kind, one.flags...))
				defer w.conn.Close()
				one.run(w)
				return joinLines(w.lines)
			})
			t.Logf("%s", out[0])
			if out[0] != out[1] {
				t.Errorf("etcd:\n%s\nquorate:\n%s", out[0], out[1])
			}
		})
	}
	t.Run("the Go client", keepaliveClient)
}

// keepaliveClient: the shortest interval that the Go client allows, ten seconds, is too short while it has
// no stream; with one it is not. So the one connection breaks after its fourth ping and the other lives.
func keepaliveClient(t *testing.T) {
	t.Parallel()
	out := both(func(kind harness.Kind) string {
		m := harness.Launch(t, kind)
		var wait sync.WaitGroup
		lines := make([]string, 2)
		for i, name := range []string{"idle", "watching"} {
			conn, err := m.Dial(grpc.WithKeepaliveParams(keepalive.ClientParameters{
				Time: time.Second, PermitWithoutStream: true}))
			if err != nil {
				return err.Error()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 55*time.Second)
			defer cancel()
			if name == "watching" {
				_, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
					"/etcdserverpb.Watch/Watch")
				if err != nil {
					return err.Error()
				}
			}
			conn.Connect()
			for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
				conn.WaitForStateChange(ctx, state)
			}
			wait.Go(func() {
				begun := time.Now()
				lost := conn.WaitForStateChange(ctx, connectivity.Ready)
				lines[i] = fmt.Sprintf("%s: lost %v", name, lost)
				if lost {
					lines[i] += fmt.Sprint(" after ", time.Since(begun).Round(10*time.Second))
				}
			})
		}
		wait.Wait()
		return joinLines(lines)
	})
	t.Logf("%s", out[0])
	if out[0] != out[1] {
		t.Errorf("etcd:\n%s\nquorate:\n%s", out[0], out[1])
	}
}
