package compat

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"quorate/compat/harness"
)

const (
	hostileWriters = 16
	// Writes of one measurement in the short size; the full one takes COMPAT_HOSTILE seconds.
	hostileWrites = 600
	// A member may grow by this much under any of the hostilities, writes included.
	hostileGrowthMax = 192 // MiB
	// How long a write may take.
	hostileWriteMax = 10 * time.Second
	// A pipe that nobody reads is full after this.
	pipeFills = 200 * time.Millisecond
	// With abuse, the p99 of writes may be this many times that of quiet (full size only).
	hostileRatioMax = 2.0
)

// hostility is what somebody does to a member while others write.
type hostility struct {
	name string
	// stays says that it cannot be taken back.
	stays bool
	// prepare changes the member before it starts, and gives what begins the abuse; it ends with
	// the context.
	prepare func(t *testing.T, m *harness.Member) func(ctx context.Context)
}

// chatty makes every request a log line.
const chatty = "--warning-unary-request-duration=1ns"

func hostilities() []hostility {
	return []hostility{
		{"stderr that nobody reads", true, blockedStderr},
		{"a log on a full disk", true, fullLogDisk},
		{"100 scrapers that do not read", false, hangingScrapers},
		{"1000 half-open TLS connections", false, halfOpen},
		{"300 bodies that come a byte at a time", false, slowBodies},
		{"5000 gRPC requests without a message", false, emptyRequests},
	}
}

func blockedStderr(t *testing.T, m *harness.Member) func(context.Context) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	m.Flags = append(m.Flags, chatty)
	m.Output = writer
	return func(context.Context) {
		// It takes what fits, and waits for a reader until the end of the test.
		go func() { _, _ = io.Copy(writer, zeros{}) }()
		time.Sleep(pipeFills)
	}
}

func fullLogDisk(t *testing.T, m *harness.Member) func(context.Context) {
	dir := smallDisk(t, 1)
	m.Flags = append(m.Flags, chatty, "--log-outputs="+filepath.Join(dir, "log"))
	return func(context.Context) {
		file, err := os.Create(filepath.Join(dir, "rest"))
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		_, _ = io.Copy(file, zeros{})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func holdOpen(t *testing.T, ctx context.Context, address string, hello string) net.Conn {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	_, _ = io.WriteString(conn, hello)
	return conn
}

func hangingScrapers(t *testing.T, m *harness.Member) func(context.Context) {
	const question = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
	return func(ctx context.Context) {
		for range 100 {
			conn := holdOpen(t, ctx, m.Endpoint(), strings.Repeat(question, 50))
			_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		}
	}
}

func halfOpen(t *testing.T, m *harness.Member) func(context.Context) {
	cert, key := hostileCertificate(t)
	address := fmt.Sprintf("127.0.0.1:%d", harness.FreePort())
	m.Flags = append(m.Flags, "--cert-file="+cert, "--key-file="+key,
		"--listen-client-urls="+m.ClientURL()+",https://"+address)
	return func(ctx context.Context) {
		for i := range 1000 {
			// A half of them begin to greet.
			hello := ""
			if i%2 == 0 {
				hello = "\x16\x03\x01\x02\x00\x01"
			}
			holdOpen(t, ctx, address, hello)
		}
	}
}

func slowBodies(t *testing.T, m *harness.Member) func(context.Context) {
	return func(ctx context.Context) { sendSlowly(t, ctx, m) }
}

func sendSlowly(t *testing.T, ctx context.Context, m *harness.Member) {
	var conns []net.Conn
	for range 300 {
		conns = append(conns, holdOpen(t, ctx, m.Endpoint(), "POST /v3/kv/put HTTP/1.1\r\nHost: localhost\r\n"+
			"Content-Type: application/json\r\nContent-Length: 1500000\r\n\r\n{\"key\":\""))
	}
	go func() {
		for ctx.Err() == nil {
			for _, conn := range conns {
				_, _ = io.WriteString(conn, "a")
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
}

func emptyRequests(t *testing.T, m *harness.Member) func(context.Context) {
	return func(ctx context.Context) {
		for range 50 {
			requestNothing(t, ctx, m)
		}
	}
}

// requestNothing is a connection with a hundred requests whose message never comes.
func requestNothing(t *testing.T, ctx context.Context, m *harness.Member) {
	conn := holdOpen(t, ctx, m.Endpoint(), http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	go func() {
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		}
	}()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range 100 {
		block.Reset()
		for _, field := range [][2]string{{":method", "POST"}, {":scheme", "http"},
			{":path", "/etcdserverpb.KV/Put"}, {":authority", "localhost"},
			{"content-type", "application/grpc"}, {"te", "trailers"}} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndHeaders: true})
	}
}

// hostileCertificate is one that signed itself, for loopback.
func hostileCertificate(t *testing.T) (cert, key string) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hostile"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", secret)
}

// latencies are those of writes by several writers at once, in order; ours must be acknowledged.
func latencies(t *testing.T, client *clientv3.Client, kind harness.Kind, seconds int) []time.Duration {
	t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	value := strings.Repeat("v", 256)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for writer := range hostileWriters {
		group.Go(func() {
			var own []time.Duration
			for i := 0; time.Now().Before(end) || seconds == 0 && i < hostileWrites/hostileWriters; i++ {
				ctx, cancel := context.WithTimeout(context.Background(), hostileWriteMax)
				began := time.Now()
				_, err := client.Put(ctx, fmt.Sprintf("hostile/%d/%d", writer, i%100), value)
				cancel()
				if err != nil && kind == harness.Ours {
					t.Errorf("a write failed: %v", err)
				}
				if err != nil {
					return // It has stopped for good.
				}
				own = append(own, time.Since(began))
			}
			mu.Lock()
			all = append(all, own...)
			mu.Unlock()
		})
	}
	group.Wait()
	slices.Sort(all)
	return all
}

func p99(sorted []time.Duration) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*99/100]
}

// TestHostileClients abuses a member in every way at hand: writes go on, and memory stays bounded.
// With COMPAT_HOSTILE=8 the latency of eight seconds of writes is measured, too, beside that of
// quiet and beside etcd.
func TestHostileClients(t *testing.T) {
	seconds := harness.EnvInt(t, "COMPAT_HOSTILE", 0)
	kinds := []harness.Kind{harness.Ours}
	if seconds > 0 {
		kinds = append(kinds, harness.Real)
	}
	for _, h := range hostilities() {
		for _, kind := range kinds {
			t.Run(h.name+"/"+kind.String(), func(t *testing.T) { hostile(t, h, kind, seconds) })
		}
	}
}

func hostile(t *testing.T, h hostility, kind harness.Kind, seconds int) {
	m := harness.NewMember(kind, t.TempDir())
	begin := h.prepare(t, m)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	client := m.Client()
	defer client.Close()
	latencies(t, client, kind, 0) // What is done once is done.
	before, _, err := m.Memory()
	if err != nil {
		t.Fatal(err)
	}
	rounds := 1
	if seconds > 0 {
		rounds = 3
	}
	var quiet, abused []time.Duration
	writes := 0
	for range rounds {
		quiet = append(quiet, p99(latencies(t, client, kind, seconds)))
	}
	for round := range rounds {
		ctx, cancel := context.WithCancel(context.Background())
		if round == 0 || !h.stays {
			begin(ctx)
		}
		all := latencies(t, client, kind, seconds)
		writes += len(all)
		abused = append(abused, p99(all))
		cancel()
	}
	if t.Failed() && kind == harness.Ours {
		t.Log(m.LogTail(20))
	}
	_, after, err := m.Memory()
	if err != nil {
		t.Fatalf("the member ended: %v", err)
	}
	slices.Sort(quiet)
	slices.Sort(abused)
	ratio := float64(abused[rounds/2]) / float64(max(quiet[rounds/2], 1))
	told := fmt.Sprintf("%d writes; p99 %s, in quiet %s, x%.2f; memory +%d MiB", writes,
		abused[rounds/2].Round(10*time.Microsecond), quiet[rounds/2].Round(10*time.Microsecond), ratio, after-before)
	if writes == 0 {
		told = "no write was answered"
	}
	t.Logf("evidence: %s: %s: %s", h.name, kind, told)
	if kind != harness.Ours {
		return
	}
	if writes == 0 {
		t.Error("nothing was written")
	}
	if after-before > hostileGrowthMax {
		t.Errorf("memory grew by %d MiB", after-before)
	}
	if seconds > 0 && ratio > hostileRatioMax {
		t.Errorf("the p99 of writes is x%.2f of that in quiet", ratio)
	}
}
