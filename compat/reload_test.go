package compat

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// reloader is a member of ours with a configuration file that changes.
type reloader struct {
	*harness.Member
	t    *testing.T
	file string
	base string // what always stands in the file
}

func newReloader(t *testing.T) *reloader {
	m := harness.Prepare(t, harness.Ours)
	r := &reloader{Member: m, t: t}
	r.file = byFile(t, m, "log-level: info\n")
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	r.base = strings.Replace(string(text), "log-level: info\n", "", 1)
	harness.MustStart(t, m)
	return r
}

// said waits until the log has a new line with all words, and counts from there on.
func (r *reloader) said(from int, words ...string) {
	r.t.Helper()
	until := time.Now().Add(20 * time.Second)
	for time.Now().Before(until) {
		scanner := bufio.NewScanner(bytes.NewReader([]byte(r.Log()[from:])))
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			found := true
			for _, word := range words {
				found = found && strings.Contains(scanner.Text(), word)
			}
			if found {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("no line with %q\n%s", words, r.LogTail(15))
}

// change writes the file anew, and returns where the log stood before.
func (r *reloader) change(keys string) int {
	r.t.Helper()
	from := len(r.Log())
	if err := os.WriteFile(r.file, []byte(r.base+"\n"+keys), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Kill(r.Pid(), syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	return from
}

// TestReload: SIGHUP reads the configuration file again, and what may change while the member runs
// does.
func TestReload(t *testing.T) {
	if realTwice() {
		t.Skip("etcd has no such thing")
	}
	t.Run("quota", reloadQuota)
	t.Run("compaction", reloadCompaction)
	t.Run("log", reloadLog)
	t.Run("slow requests", reloadSlow)
	t.Run("without a file", reloadWithoutFile)
}

func reloadQuota(t *testing.T) {
	r := newReloader(t)
	client := r.Client()
	defer client.Close()
	put := func() error {
		_, err := client.Put(t.Context(), "a", "b")
		return err
	}
	quota := func() int64 {
		status, err := client.Status(t.Context(), r.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		return status.DbSizeQuota
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	from := r.change("quota-backend-bytes: 4096\nname: other\n")
	r.said(from, "configuration changed", "quota-backend-bytes", `"from":"default"`, `"to":"4096"`)
	r.said(from, "with the next start", `"name"`)
	if err := put(); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("a put above the new quota: %v", err)
	}
	if quota() != 4096 {
		t.Errorf("the quota is told as %d", quota())
	}
	if page := fetched("http://" + r.Endpoint() + "/health"); !strings.Contains(page, "NOSPACE") {
		t.Errorf("health: %s", page)
	}

	// A file that could not start a member changes nothing, and the member goes on.
	for _, bad := range []string{"quota-backend-bytes: x", "quota-backend-bytes: 1\nheartbeat-interval: 0", "a: ["} {
		r.said(r.change(bad), "is refused; nothing is changed", r.file)
	}
	if quota() != 4096 {
		t.Errorf("the quota is told as %d after refused files", quota())
	}

	r.said(r.change("quota-backend-bytes: 123456789\n"), "configuration changed", `"to":"123456789"`)
	members, err := client.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alarm := &clientv3.AlarmMember{MemberID: members.Members[0].ID, Alarm: pb.AlarmType_NOSPACE}
	if _, err := client.AlarmDisarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	if err := put(); err != nil {
		t.Errorf("a put below the new quota: %v", err)
	}
	harness.MustStop(t, r.Member)
}

func reloadCompaction(t *testing.T) {
	r := newReloader(t)
	client := r.Client()
	defer client.Close()
	// A watcher sees what is written all the time, and that history goes away.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch := client.Watch(ctx, "a", clientv3.WithRev(1))
	seen := 0
	write := func() {
		if _, err := client.Put(ctx, "a", fmt.Sprint(seen)); err != nil {
			t.Fatal(err)
		}
		for p := range watch {
			if err := p.Err(); err != nil {
				t.Fatal(err)
			}
			seen += len(p.Events)
			return
		}
	}
	write()
	from := r.change("auto-compaction-retention: 500ms\nauto-compaction-mode: periodic\n")
	r.said(from, "configuration changed", "auto-compaction-retention", "500ms")
	for {
		write()
		_, err := client.Get(ctx, "a", clientv3.WithRev(2))
		if errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
		if err != nil {
			t.Fatalf("nothing was compacted: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	p := <-client.Watch(ctx, "a", clientv3.WithRev(1))
	if p.CompactRevision == 0 {
		t.Errorf("a watch from the beginning is not told of the compaction: %v", p.Err())
	}
	r.said(from, "completed auto compaction")
	write()
}

func reloadLog(t *testing.T) {
	r := newReloader(t)
	client := r.Client()
	defer client.Close()
	from := r.change("log-level: error\n")
	r.said(from, "configuration changed", "log-level", `"to":"error"`)
	quiet := r.change("log-level: error\nquota-backend-bytes: 87654321\n")
	for {
		status, err := client.Status(t.Context(), r.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		if status.DbSizeQuota == 87654321 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	from = r.change("log-level: info\nquota-backend-bytes: 87654321\n")
	r.said(from, "configuration changed", "log-level", `"to":"info"`)
	if strings.Contains(r.Log()[quiet:], "quota-backend-bytes") {
		t.Errorf("a line of level info although the level was error\n%s", r.Log()[quiet:])
	}
	// From a wordier level than info, too.
	from = r.change("log-level: debug\n")
	r.said(from, "configuration changed", "log-level", `"to":"debug"`)
	from = r.change("log-level: warn\n")
	r.said(from, "configuration changed", "log-level", `"to":"warn"`)
}

func reloadSlow(t *testing.T) {
	r := newReloader(t)
	client := r.Client()
	defer client.Close()
	from := r.change("warning-unary-request-duration: 1\nwarning-apply-duration: 1\n")
	r.said(from, "configuration changed", "warning-unary-request-duration")
	from = len(r.Log())
	if _, err := client.Put(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	r.said(from, "apply request took too long", `"expected-duration":"1ns"`)
	r.said(from, "/etcdserverpb.KV/Put")
}

func reloadWithoutFile(t *testing.T) {
	m := harness.Launch(t, harness.Ours)
	r := &reloader{Member: m, t: t, file: filepath.Join(t.TempDir(), "none")}
	r.said(r.change(""), "there is no configuration file to read again")
	harness.MustStop(t, m)
}

// TestFlagsPlaces: what flags say about places.
func TestFlagsPlaces(t *testing.T) {
	t.Run("log of its own directory", func(t *testing.T) {
		for _, first := range []harness.Kind{harness.Real, harness.Ours} {
			m := harness.Prepare(t, first)
			wal := filepath.Join(filepath.Dir(m.Dir), "elsewhere", "wal")
			m.Flags = []string{"--wal-dir=" + wal}
			for i, kind := range []harness.Kind{first, first.Other(), first} {
				m.Kind = kind
				harness.MustStart(t, m)
				client := m.Client()
				p, err := client.Get(t.Context(), "", clientv3.WithFromKey())
				if err != nil || int(p.Count) != i {
					t.Fatalf("%s as number %d sees %v keys, %v", kind, i, p, err)
				}
				if _, err := client.Put(t.Context(), fmt.Sprint("by/", i), "v"); err != nil {
					t.Fatal(err)
				}
				client.Close()
				harness.MustStop(t, m)
			}
			if files, err := os.ReadDir(wal); err != nil || len(files) == 0 {
				t.Errorf("no log in %s: %v", wal, err)
			}
			if _, err := os.Stat(filepath.Join(m.Dir, "member", "wal")); !os.IsNotExist(err) {
				t.Errorf("a log in the data directory, too: %v", err)
			}
		}
	})
	t.Run("default host", func(t *testing.T) {
		out := both(func(kind harness.Kind) string {
			client, peer := harness.FreePort(), harness.FreePort()
			end := flagRun(t, kind, nil, "--name=n", fmt.Sprintf("--listen-client-urls=http://0.0.0.0:%d", client),
				"--advertise-client-urls=http://localhost:2379", fmt.Sprintf("--listen-peer-urls=http://0.0.0.0:%d", peer))
			text := strings.ReplaceAll(end.stderr, fmt.Sprint(client), "CLIENT")
			text = strings.ReplaceAll(text, fmt.Sprint(peer), "PEER")
			host := regexp.MustCompile(`"msg":"(detected default host[^}]*)`).FindStringSubmatch(text)
			urls := regexp.MustCompile(`"advertise-client-urls":(\[[^\]]*\])`).FindStringSubmatch(text)
			cluster := regexp.MustCompile(`"initial-cluster":"([^"]*)"`).FindStringSubmatch(text)
			return fmt.Sprint(end.serves, host, urls, cluster)
		})
		if out[0] != out[1] || !strings.HasPrefix(out[0], "true") {
			t.Errorf("etcd:    %s\nquorate: %s", out[0], out[1])
		}
	})
	t.Run("locked memory", func(t *testing.T) {
		m := harness.Prepare(t, harness.Ours, "--memory-mlock")
		if err := m.Spawn(); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitReady(harness.StartTimeout); err != nil {
			refusal(t, m, "--memory-mlock")
			return
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		if locked := regexp.MustCompile(`VmLck:\s+([1-9]\d*) kB`).FindString(string(status)); locked == "" {
			t.Errorf("no memory is locked\n%s", status)
		}
	})
}

// kubeadmFlags is what kubeadm writes into etcd's static pod, but for what is about TLS.
func kubeadmFlags(scheme, client, peer, metrics, dir string) []string {
	return []string{
		"--advertise-client-urls=" + scheme + "://" + client,
		"--data-dir=" + dir,
		"--feature-gates=InitialCorruptCheck=true",
		"--initial-advertise-peer-urls=" + scheme + "://" + peer,
		"--initial-cluster=node=" + scheme + "://" + peer,
		"--listen-client-urls=" + scheme + "://" + client,
		"--listen-metrics-urls=http://" + metrics,
		"--listen-peer-urls=" + scheme + "://" + peer,
		"--name=node",
		"--snapshot-count=10000",
		"--watch-progress-notify-interval=5s",
	}
}

// kubeadmTLS is the rest, with the files of its PKI.
func kubeadmTLS(pki string) []string {
	return []string{
		"--cert-file=" + pki + "/server.crt",
		"--client-cert-auth=true",
		"--key-file=" + pki + "/server.key",
		"--peer-cert-file=" + pki + "/peer.crt",
		"--peer-client-cert-auth=true",
		"--peer-key-file=" + pki + "/peer.key",
		"--peer-trusted-ca-file=" + pki + "/ca.crt",
		"--trusted-ca-file=" + pki + "/ca.crt",
	}
}

// TestKubeadm starts etcd as kubeadm's static pod does, old and new, and asks its probes.
func TestKubeadm(t *testing.T) {
	for _, c := range []struct {
		name string
		tls  bool
		old  bool
	}{{"without TLS", false, false}, {"flags of 3.5", false, true}, {"with TLS", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			kinds := []harness.Kind{harness.Real, harness.Ours}
			if c.old { // which 3.7.1 refuses
				kinds = kinds[1:]
			}
			for _, kind := range kinds {
				kubeadm(t, kind, c.tls, c.old)
			}
		})
	}
}

func kubeadm(t *testing.T, kind harness.Kind, tls, old bool) {
	m := harness.Prepare(t, kind)
	metrics := fmt.Sprintf("127.0.0.1:%d", harness.FreePort())
	scheme := "http"
	if tls {
		scheme = "https"
	}
	peer := strings.TrimPrefix(m.PeerURL(), "http://")
	m.Bare, m.Flags = true, kubeadmFlags(scheme, m.Endpoint(), peer, metrics, m.Dir)
	if tls {
		m.Flags = append(m.Flags, kubeadmTLS(kubeadmPKI(t))...)
	}
	if old {
		for i, flag := range m.Flags {
			flag = strings.Replace(flag, "--feature-gates=InitialCorruptCheck", "--experimental-initial-corrupt-check", 1)
			m.Flags[i] = strings.Replace(flag, "--watch-progress", "--experimental-watch-progress", 1)
		}
	}
	if err := m.Spawn(); err != nil {
		t.Fatal(err)
	}
	// The probes of the static pod, on the port for metrics.
	for _, path := range []string{"/readyz", "/livez", "/health?exclude=NOSPACE&serializable=true"} {
		until := time.Now().Add(harness.StartTimeout)
		for {
			p, err := http.Get("http://" + metrics + path)
			if err == nil {
				p.Body.Close()
				if p.StatusCode == http.StatusOK {
					break
				}
			}
			if !m.Running() || time.Now().After(until) {
				t.Fatalf("%s: %s: %v\n%s", kind, path, err, m.LogTail(10))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if old && !strings.Contains(m.LastLog(), "Use '--feature-gates=InitialCorruptCheck=true' instead.") {
		t.Errorf("nothing is said about the old names\n%s", m.LastLog())
	}
	harness.MustStop(t, m)
}
