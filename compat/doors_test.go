package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// door is what one path answers: status, headers that clients look at, and the body.
type door struct {
	status string
	body   []byte
	header http.Header
}

func ask(method, url string) door {
	q, err := http.NewRequest(method, url, nil)
	if err != nil {
		return door{status: err.Error()}
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	p, err := client.Do(q)
	if err != nil {
		return door{status: "no answer"}
	}
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	if err != nil {
		return door{status: "cut off"}
	}
	return door{p.Status, body, p.Header}
}

func (d door) head() string {
	text := d.status
	for _, name := range []string{"Content-Type", "X-Content-Type-Options", "Allow", "X-Go-Pprof", "Location",
		"Content-Disposition", "Access-Control-Allow-Origin"} {
		if value := d.header.Get(name); value != "" {
			text += fmt.Sprintf(" %s=%q", name, value)
		}
	}
	return text
}

// sorted puts the lines of probes in order: in etcd their order is random.
func (d door) sorted() string {
	lines := strings.SplitAfter(string(d.body), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestDoors compares every path, with profiles on: what is there, for which methods, with which headers.
func TestDoors(t *testing.T) {
	httpPorts := [2]int{harness.FreePort(), harness.FreePort()}
	kinds := []harness.Kind{harness.Real, harness.Ours}
	plain := [2]*harness.Member{}
	for _, kind := range kinds {
		plain[kind] = harness.Prepare(t, kind, "--enable-pprof",
			fmt.Sprintf("--listen-client-http-urls=http://127.0.0.1:%d", httpPorts[kind]))
	}
	debug := [2]*harness.Member{}
	for _, kind := range kinds {
		debug[kind] = harness.Prepare(t, kind, "--log-level=debug")
	}
	bodies := []string{"/", "/debug/pprof", "/debug/pprof/nonsense", "/config/local/log", "/config", "/v2/keys",
		"/health", "/health?serializable=true", "/livez?verbose", "/readyz?verbose", "/readyz/non_learner", "/version"}
	heads := []string{"/metrics", "/debug/vars", "/debug", "/debug/", "/debug/pprof/", "/debug/pprof/cmdline",
		"/debug/pprof/symbol", "/debug/pprof/profile?seconds=1", "/readyz/disk/x", "/v2/stats/self", "/members",
		"/raft", "/debug/pprofx", "/favicon.ico"}
	out := both(func(kind harness.Kind) string {
		var lines []string
		say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
		for at, m := range []*harness.Member{plain[kind], debug[kind]} {
			if err := m.Start(); err != nil {
				return err.Error()
			}
			base := m.ClientURL()
			if at == 0 {
				base = fmt.Sprintf("http://127.0.0.1:%d", httpPorts[kind])
			}
			for range 500 { // a member may serve before the version of its cluster is decided
				if strings.Contains(string(ask("GET", base+"/version").body), `"storage":"3`) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			for _, path := range bodies {
				one := ask("GET", base+path)
				say("%d GET %s: %s %q", at, path, one.head(), one.sorted())
			}
			for _, path := range heads {
				say("%d GET %s: %s", at, path, ask("GET", base+path).head())
			}
			for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
				for _, path := range []string{"/debug/vars", "/debug/pprof/cmdline", "/debug/pprof/nonsense",
					"/health", "/nonsense", "/metrics"} {
					say("%d %s %s: %s", at, method, path, ask(method, base+path).head())
				}
			}
			words := strings.Split(string(ask("GET", base+"/debug/pprof/cmdline").body), "\x00")
			say("%d words of the command line: %d, as the flags: %v", at, len(words),
				slices.Equal(words[1:], m.Args()))
		}
		return joinLines(lines)
	})
	if out[0] != out[1] {
		t.Errorf("answers differ\n%s", sideBySide(out[0], out[1]))
	}
	// What only a Go process has is known, and said not to be there.
	for _, name := range []string{"block", "mutex", "trace"} {
		one := ask("GET", debug[harness.Ours].ClientURL()+"/debug/pprof/"+name)
		if !strings.HasPrefix(one.status, "501") || len(one.body) == 0 {
			t.Errorf("%s: %s %q", name, one.head(), one.body)
		}
	}
	threads := string(ask("GET", debug[harness.Ours].ClientURL()+"/debug/pprof/goroutine").body)
	for _, name := range []string{": pump\n", ": log\n", ": apply\n", ": lane-0\n"} {
		if !strings.Contains(threads, name) {
			t.Errorf("no thread %q in\n%s", name, threads)
		}
	}
}

// TestProfile takes profiles of a member under load, and has Go's tool read them.
func TestProfile(t *testing.T) {
	m := harness.Launch(t, harness.Ours, "--enable-pprof")
	client := m.Client()
	t.Cleanup(func() { client.Close() })
	ctx, stop := context.WithCancel(context.Background())
	var load sync.WaitGroup
	t.Cleanup(func() { stop(); load.Wait() })
	for i := range 16 {
		load.Go(func() {
			// New keys: of what the index holds, a profile that samples must see some.
			for n := 0; ctx.Err() == nil; n++ {
				var puts []clientv3.Op
				for k := range 100 {
					puts = append(puts, clientv3.OpPut(fmt.Sprintf("k%d-%d-%d", i, n, k), "v"))
				}
				_, _ = client.Txn(ctx).Then(puts...).Commit()
			}
		})
	}
	var first, second door
	var both sync.WaitGroup
	both.Go(func() { first = ask("GET", m.ClientURL()+"/debug/pprof/profile?seconds=3") })
	time.Sleep(500 * time.Millisecond)
	both.Go(func() { second = ask("GET", m.ClientURL()+"/debug/pprof/profile?seconds=3") })
	both.Wait()
	if !strings.HasPrefix(second.status, "500") ||
		string(second.body) != "Could not enable CPU profiling: cpu profiling already in use\n" {
		t.Errorf("a second profile meanwhile: %s %q", second.head(), second.body)
	}
	file := filepath.Join(t.TempDir(), "cpu.pb.gz")
	if err := os.WriteFile(file, first.body, 0o600); err != nil {
		t.Fatal(err)
	}
	top, err := exec.Command("go", "tool", "pprof", "-top", "-nodecount=100000", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, top, first.head())
	}
	for _, want := range []string{"Type: cpu", "server::member::threads::pump", "store::", "node::"} {
		if !strings.Contains(string(top), want) {
			t.Errorf("%q is not in\n%.2000s", want, top)
		}
	}
	tags, err := exec.Command("go", "tool", "pprof", "-tags", file).CombinedOutput()
	if err != nil || !strings.Contains(string(tags), "pump") || !strings.Contains(string(tags), "lane-") {
		t.Errorf("threads are not named: %v\n%s", err, tags)
	}
	for name, shown := range map[string]string{"heap": "inuse_space", "allocs": "alloc_space"} {
		heap := ask("GET", m.ClientURL()+"/debug/pprof/"+name)
		if err := os.WriteFile(file, heap.body, 0o600); err != nil {
			t.Fatal(err)
		}
		top, err := exec.Command("go", "tool", "pprof", "-top", "-cum", "-nodecount=100000", file).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, top, heap.head())
		}
		for _, want := range []string{"Type: " + shown, "store::", "storage::"} {
			if !strings.Contains(string(top), want) {
				t.Errorf("%s: %q is not in\n%s", name, want, top)
			}
		}
		if strings.Contains(string(top), "_rjem_") {
			t.Errorf("%s: the allocator's own functions are told\n%.2000s", name, top)
		}
	}
	picture := ask("GET", m.ClientURL()+"/debug/pprof/flamegraph?seconds=1")
	if picture.header.Get("Content-Type") != "image/svg+xml" || !strings.Contains(string(picture.body), "pump") {
		t.Errorf("flame graph: %s %.300s", picture.head(), picture.body)
	}
}

// probe asks one member everything about its health.
func probe(m *harness.Member) string {
	var lines []string
	for _, path := range []string{"/health", "/health?serializable=true", "/health?exclude=NOSPACE",
		"/health?exclude=CORRUPT", "/health?exclude=NOSPACE&exclude=CORRUPT", "/livez", "/livez?verbose", "/readyz",
		"/readyz?verbose", "/readyz?exclude=data_corruption", "/readyz?exclude=linearizable_read&verbose",
		"/readyz/data_corruption", "/readyz/serializable_read", "/readyz/non_learner"} {
		one := ask("GET", m.ClientURL()+path)
		lines = append(lines, fmt.Sprintf("%s: %s %q", path, one.head(), one.sorted()))
	}
	return joinLines(lines)
}

func init() {
	register("health",
		Case{Name: "alarms", Run: func(c *C) {
			for _, alarms := range [][]pb.AlarmType{{pb.AlarmType_NOSPACE}, {pb.AlarmType_CORRUPT},
				{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT}} {
				for _, action := range []pb.AlarmRequest_AlarmAction{pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE} {
					for _, alarm := range alarms {
						_, err := c.Maint.Alarm(c.Ctx, &pb.AlarmRequest{Action: action, MemberID: c.Self, Alarm: alarm})
						c.Must(err)
					}
					text := probe(c.M)
					if len(alarms) == 2 { // which of two is named first is open
						text = strings.NewReplacer("ALARM NOSPACE", "ALARM", "ALARM CORRUPT", "ALARM").Replace(text)
					}
					c.Log("%v %v\n%s", action, alarms, text)
				}
			}
		}},
		Case{Name: "another member's alarm", Run: func(c *C) {
			_, err := c.Maint.Alarm(c.Ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 5,
				Alarm: pb.AlarmType_CORRUPT})
			c.Must(err)
			c.Log("%s", probe(c.M))
		}},
	)
}

// TestHealthStates compares what members say of themselves when others are gone: a follower, a
// learner, and whoever is left.
func TestHealthStates(t *testing.T) {
	t.Parallel()
	clusters := [2]*harness.Cluster{}
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		clusters[kind] = harness.NewCluster(t, false, []harness.Kind{kind, kind})
	}
	out := both(func(kind harness.Kind) string {
		c := clusters[kind]
		for _, err := range startAll(c.Members) {
			if err != nil {
				return err.Error()
			}
		}
		learner := c.Join(kind, true)
		var lines []string
		say := func(what string, m *harness.Member) { lines = append(lines, what+"\n"+probe(m)) }
		leader := c.WaitLeader(c.Members[:2]...)
		follower := c.Members[0]
		if follower == leader {
			follower = c.Members[1]
		}
		say("a follower", follower)
		say("a learner", learner)
		lines = append(lines, raftVariables(leader), raftVariables(follower))
		follower.Kill()
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if status, err := leader.Status(); err == nil && status.Leader == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		one := ask("GET", leader.ClientURL()+"/health")
		lines = append(lines, fmt.Sprintf("alone: %s %q", one.head(), one.body))
		for _, path := range []string{"/health?serializable=true", "/livez?verbose",
			"/readyz?exclude=linearizable_read", "/readyz"} {
			one := ask("GET", leader.ClientURL()+path)
			lines = append(lines, fmt.Sprintf("alone %s: %s %q", path, one.head(), one.sorted()))
		}
		return joinLines(lines)
	})
	if out[0] != out[1] {
		t.Errorf("answers differ\n%s", sideBySide(out[0], out[1]))
	} else if testing.Verbose() {
		t.Logf("\n%s", out[0])
	}
}

func startAll(members []*harness.Member) []error {
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.Start() })
	}
	wg.Wait()
	return errs
}

// raftVariables tells which variables there are, and what they say of raft.
func raftVariables(m *harness.Member) string {
	one := ask("GET", m.ClientURL()+"/debug/vars")
	var all map[string]any
	if err := json.Unmarshal(one.body, &all); err != nil {
		return err.Error()
	}
	raft, ok := all["raft.status"].(map[string]any)
	if !ok {
		return "no raft.status"
	}
	status, err := m.Status()
	if err != nil {
		return err.Error()
	}
	id, lead := fmt.Sprintf("%x", status.Header.MemberId), fmt.Sprintf("%x", status.Leader)
	text := fmt.Sprint(sortedKeys(all), sortedKeys(raft), raft["raftState"], " id ", raft["id"] == id, " lead ",
		raft["lead"] == lead, " vote ", raft["vote"] != "0", " transferee ", raft["leadtransferee"])
	progress, _ := raft["progress"].(map[string]any)
	for _, one := range progress {
		text += fmt.Sprint(" ", sortedKeys(one.(map[string]any)), one.(map[string]any)["state"])
	}
	return text
}

func sortedKeys(m map[string]any) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestLockCrowd has many wait for one lock: each gets it in its turn, and nobody is left behind.
func TestLockCrowd(t *testing.T) {
	m := harness.Launch(t, harness.Ours)
	client := m.Client()
	t.Cleanup(func() { client.Close() })
	crowd(t, m, client, harness.EnvInt(t, "COMPAT_CROWD", 300))
}

func crowd(t *testing.T, m *harness.Member, client *clientv3.Client, count int) {
	conn, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &C{M: m, Ctx: context.Background(), Conn: conn, KV: pb.NewKVClient(conn), Lease: pb.NewLeaseClient(conn)}
	var outs []chan said
	for i := range int64(count) {
		c.grants(i + 1)
		outs = append(outs, c.lock(c.Ctx, "l", i+1))
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		p, err := client.Get(c.Ctx, "l/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && p.Count == int64(count) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all wait: %v %v", p, err)
		}
	}
	told := scrape(m)["etcd_debugging_mvcc_events_total"]
	line, err := client.Get(c.Ctx, "l/", clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range line.Kvs {
		s := <-outs[kv.Lease-1]
		if s.err != nil {
			t.Fatal(s.err)
		}
		if _, err := client.Delete(c.Ctx, string(kv.Key)); err != nil {
			t.Fatal(err)
		}
	}
	// Each release wakes the next one: a crowd that was woken together would have heard count times as much.
	if told = scrape(m)["etcd_debugging_mvcc_events_total"] - told; told != float64(count-1) {
		t.Errorf("%d waiters were woken %.0f times", count, told)
	}
}
