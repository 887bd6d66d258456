package compat

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"quorate/compat/harness"
)

// TestListen compares what is served where, when everything has a place of its own.
func TestListen(t *testing.T) {
	out := both(func(kind harness.Kind) string {
		dir := t.TempDir()
		socket := filepath.Join(dir, "clients:1")
		httpPort, metricsPort := harness.FreePort(), harness.FreePort()
		m := harness.Prepare(t, kind,
			fmt.Sprintf("--listen-client-http-urls=http://127.0.0.1:%d", httpPort),
			fmt.Sprintf("--listen-metrics-urls=http://127.0.0.1:%d", metricsPort))
		// A later flag counts; both ways to listen, and the first is the one that is dialled.
		m.Flags = append(m.Flags, "--listen-client-urls="+m.ClientURL()+",unix://"+socket)
		if err := m.Start(); err != nil {
			return err.Error()
		}
		var lines []string
		for name, port := range map[string]string{"grpc": m.Endpoint(),
			"http": fmt.Sprint("127.0.0.1:", httpPort), "metrics": fmt.Sprint("127.0.0.1:", metricsPort)} {
			for _, path := range []string{"/version", "/health", "/metrics", "/livez", "/readyz", "/nonsense"} {
				lines = append(lines, name+path+": "+fetched("http://"+port+path))
			}
			lines = append(lines, name+" by gRPC: "+asked("passthrough:///"+port))
		}
		lines = append(lines, "socket by gRPC: "+asked("unix:"+socket))
		if err := m.Stop(); err != nil {
			return err.Error()
		}
		_, err := os.Stat(socket)
		lines = append(lines, fmt.Sprint("socket is gone: ", os.IsNotExist(err)))
		return joinLines(slices.Sorted(slices.Values(lines)))
	})
	t.Logf("%s", out[0])
	if out[0] != out[1] {
		t.Errorf("etcd:\n%s\nquorate:\n%s", out[0], out[1])
	}
}

func fetched(url string) string {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	p, err := client.Get(url)
	if err != nil {
		return "no answer"
	}
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	if err != nil || strings.HasSuffix(url, "/metrics") {
		body = nil
	}
	return fmt.Sprintf("%d %s %q", p.StatusCode, p.Header.Get("Content-Type"), body)
}

func asked(target string) string {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: b("a")})
	if err != nil {
		return "no answer"
	}
	return fmt.Sprint("count ", p.Count)
}
