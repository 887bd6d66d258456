package compat

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

var rulesPath = filepath.Join(harness.Root(), "..", "deploy", "prometheus", "alerts.yaml")

// scrapeStep is the time between two scrapes as Prometheus sees it. The tests scrape faster: counters,
// states and distributions are what they are, rates by the second would not be, and no rule has one.
const scrapeStep = 15.0

// A prometheus scrapes members as Prometheus would, in its own time.
type prometheus struct {
	t       *testing.T
	members []*harness.Member
	wanted  map[string]bool // metrics that rules name
	job     string
	scrapes []scraped
}

type scraped struct {
	Seconds float64
	Targets map[string]*string
}

var namedMetric = regexp.MustCompile(`\b(?:etcd|grpc_server|process|quorate)_[a-z0-9_]+`)

// namedByRules lists the metrics in the rules' text.
func namedByRules(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(rulesPath)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, name := range namedMetric.FindAllString(string(text), -1) {
		named[name] = true
	}
	return named
}

func newPrometheus(t *testing.T, members ...*harness.Member) *prometheus {
	t.Helper()
	// Long after 1970, so that an offset reaches back.
	return &prometheus{t: t, members: members, wanted: namedByRules(t), job: "etcd-test"}
}

// scrape looks at all members so many times, with a pause after each.
func (p *prometheus) scrape(times int, pause time.Duration) {
	p.t.Helper()
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range times {
		now := 1e6 + float64(len(p.scrapes))*scrapeStep
		targets := make([]*string, len(p.members))
		var wg sync.WaitGroup
		for i, m := range p.members {
			wg.Go(func() {
				answer, err := client.Get(m.ClientURL() + "/metrics")
				if err != nil {
					return
				}
				defer answer.Body.Close()
				text, err := io.ReadAll(answer.Body)
				if err != nil || answer.StatusCode != http.StatusOK {
					return
				}
				kept := p.keep(string(text))
				targets[i] = &kept
			})
		}
		wg.Wait()
		one := scraped{now, map[string]*string{}}
		for i, m := range p.members {
			one.Targets[m.Name] = targets[i]
		}
		p.scrapes = append(p.scrapes, one)
		time.Sleep(pause)
	}
}

// keep leaves out what no rule asks for.
func (p *prometheus) keep(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		end := strings.IndexAny(line, "{ ")
		if end > 0 && p.wanted[line[:end]] {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// fired lists the alerts that fired, each once, with its severity if it has several.
func (p *prometheus) fired() []string {
	p.t.Helper()
	var fired []struct{ Alert string }
	question := map[string]any{"Job": p.job, "Scrapes": p.scrapes}
	if err := harness.Promql(question, &fired, "alerts", rulesPath); err != nil {
		p.t.Fatal(err)
	}
	names := map[string]bool{}
	for _, one := range fired {
		names[one.Alert] = true
	}
	return slices.Sorted(maps.Keys(names))
}

var (
	alertsMu   sync.Mutex
	alertsSeen = map[string]bool{}
)

// expect demands that these alerts have fired, and no others but those that may.
func (p *prometheus) expect(alerts []string, may ...string) {
	p.t.Helper()
	fired := p.fired()
	for _, alert := range alerts {
		if !slices.Contains(fired, alert) {
			p.t.Errorf("%s did not fire, but %v", alert, fired)
		}
	}
	for _, alert := range fired {
		if !slices.Contains(alerts, alert) && !slices.Contains(may, alert) {
			p.t.Errorf("%s fired", alert)
		}
	}
	alertsMu.Lock()
	defer alertsMu.Unlock()
	for _, alert := range alerts {
		alertsSeen[alert] = true
	}
	p.t.Logf("evidence: fired: %v", fired)
}

const quickly = 25 * time.Millisecond

// TestAlerts makes each fault that an alert is for, and judges by Prometheus' own engine what fires.
func TestAlerts(t *testing.T) {
	t.Parallel()
	faults := map[string]func(*testing.T){
		"quiet": alertQuiet, "members": alertMembers, "leaders": alertLeaders,
		"network": alertNetwork, "disk": alertDisk, "space": alertSpace, "snapshot": alertSnapshot,
	}
	var done atomic.Int32
	t.Run("faults", func(t *testing.T) {
		for name, run := range faults {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t)
				done.Add(1)
			})
		}
	})
	if int(done.Load()) != len(faults) {
		return // one was skipped, or not asked for
	}
	text, err := os.ReadFile(rulesPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(text), -1) {
		if !alertsSeen[found[1]] && !t.Failed() {
			t.Errorf("no test makes %s fire", found[1])
		}
	}
}

// keepBusy writes, reads and watches until the answer is called.
func keepBusy(t *testing.T, members ...*harness.Member) (stop func()) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: harness.Endpoints(members), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	events := client.Watch(ctx, "k", clientv3.WithPrefix())
	wg.Go(func() {
		for range events {
		}
	})
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			within, done := context.WithTimeout(ctx, 5*time.Second)
			_, _ = client.Put(within, fmt.Sprint("k", i%50), strings.Repeat("x", 200))
			_, _ = client.Get(within, "k1")
			done()
			time.Sleep(2 * time.Millisecond)
		}
	})
	return func() { cancel(); wg.Wait(); client.Close() }
}

// alertQuiet: nothing fires while all is well, in a cluster of either product, for 17 minutes.
func alertQuiet(t *testing.T) {
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			c := harness.LaunchCluster(t, false, []harness.Kind{kind, kind, kind})
			stop := keepBusy(t, c.Members...)
			p := newPrometheus(t, c.Members...)
			p.scrape(68, quickly)
			stop()
			p.expect(nil)
		})
	}
}

// alertMembers: one member is killed, then another.
func alertMembers(t *testing.T) {
	c := harness.LaunchCluster(t, false, []harness.Kind{harness.Ours, harness.Ours, harness.Ours},
		"--heartbeat-interval=20", "--election-timeout=200")
	p := newPrometheus(t, c.Members...)
	p.scrape(8, quickly)
	leader := c.WaitLeader()
	others := c.Others(leader)
	others[0].Kill()
	p.scrape(12, quickly)
	p.expect([]string{"etcdMemberDown"})

	others[1].Kill()
	client := leader.Client()
	defer client.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if _, err := client.Put(ctx, fmt.Sprint("lost", i), ""); err == nil {
				t.Error("a write without a majority")
			}
		})
	}
	wg.Wait()
	p.scrape(24, quickly)
	p.expect([]string{"etcdMemberDown", "etcdInsufficientMembers", "etcdNoLeader", "etcdHighNumberOfFailedProposals"})
}

// alertLeaders: the leadership goes round, and a leader is held up.
func alertLeaders(t *testing.T) {
	c := harness.LaunchCluster(t, false, []harness.Kind{harness.Ours, harness.Ours, harness.Ours})
	p := newPrometheus(t, c.Members...)
	leader := c.WaitLeader()
	p.scrape(4, quickly)
	for range 7 {
		// Two heartbeats and more, and less than an election timeout.
		for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
			if err := syscall.Kill(leader.Pid(), signal); err != nil {
				t.Fatal(err)
			}
			time.Sleep(450 * time.Millisecond)
		}
		p.scrape(1, 0)
	}
	p.scrape(2, quickly)
	p.expect([]string{"etcdHeartbeatsLate"}, "etcdHighNumberOfLeaderChanges")
	for i := range 6 {
		c.MoveLeader(c.Members[i%3])
		p.scrape(1, 0)
	}
	p.scrape(2, quickly)
	p.expect([]string{"etcdHeartbeatsLate", "etcdHighNumberOfLeaderChanges"})
}

// alertNetwork: everything between members takes long.
func alertNetwork(t *testing.T) {
	c := harness.LaunchCluster(t, true, []harness.Kind{harness.Ours, harness.Ours, harness.Ours})
	m := c.Others(c.WaitLeader())[0]
	// A member looks at the time of a round trip five seconds after its start, and then rarely.
	m.Kill()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	c.Net.All(harness.Link{Delay: 150 * time.Millisecond})
	p := newPrometheus(t, m)
	// The first value makes the series; Prometheus sees by how much it grows with the second, half a
	// minute later.
	looks := func() (seen float64) {
		for name, value := range scrape(m) {
			if strings.HasPrefix(name, "etcd_network_peer_round_trip_time_seconds_count") {
				seen = max(seen, value)
			}
		}
		return seen
	}
	first := 0.0
	for first == 0 || looks() == first {
		p.scrape(1, time.Second)
		if first == 0 {
			first = looks()
		}
		if len(p.scrapes) > 55 {
			t.Fatal("nobody looks at round trips")
		}
	}
	p.scrape(25, quickly)
	p.expect([]string{"etcdMemberCommunicationSlow"})
}

// slowSync builds what makes syncs slow, or skips where there is no C compiler.
func slowSync(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("there is no C compiler for a slow disk")
	}
	library := filepath.Join(t.TempDir(), "slowsync.so")
	source := filepath.Join(harness.Root(), "testdata", "slowsync.c")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O1", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return library
}

// alertDisk: syncs take longer than a second, then forever.
func alertDisk(t *testing.T) {
	m := harness.Prepare(t, harness.Ours)
	told := filepath.Join(t.TempDir(), "millis")
	m.Env = []string{"LD_PRELOAD=" + slowSync(t), "SLOWSYNC=" + told}
	take := func(millis int) {
		t.Helper()
		if err := os.WriteFile(told+".new", fmt.Appendln(nil, millis), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(told+".new", told); err != nil {
			t.Fatal(err)
		}
	}
	take(0)
	harness.MustStart(t, m)
	p := newPrometheus(t, m)
	stop := keepBusy(t, m)
	defer stop()
	p.scrape(2, quickly)
	take(1100)
	// A sync in every five minutes of the scraper.
	p.scrape(60, 200*time.Millisecond)
	p.expect([]string{"etcdHighFsyncDurations", "etcdHighCommitDurations"})

	take(20_000)
	conn, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go pb.NewMaintenanceClient(conn).Defragment(ctx, &pb.DefragmentRequest{})
	time.Sleep(3500 * time.Millisecond)
	p.scrape(45, quickly)
	p.expect([]string{"etcdHighFsyncDurations", "etcdHighCommitDurations", "quorateDiskStalled", "etcdDefragmentationLong"},
		"etcdHighNumberOfFailedProposals")
}

// limit sets how many files a process may open.
func limit(t *testing.T, pid int, files uint64) {
	t.Helper()
	both := [2]uint64{files, files}
	const ofFiles = 7 // RLIMIT_NOFILE
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), ofFiles,
		uintptr(unsafe.Pointer(&both)), 0, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
}

// alertSpace: the quota is used up, files run out, and members differ.
func alertSpace(t *testing.T) {
	m := harness.Launch(t, harness.Ours, "--quota-backend-bytes=4194304")
	client := m.Client()
	defer client.Close()
	p := newPrometheus(t, m)
	p.scrape(2, quickly)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	refused := 0
	for i := 0; refused < 40 && ctx.Err() == nil; i++ {
		if _, err := client.Put(ctx, fmt.Sprint("fill", i), strings.Repeat("x", 100_000)); err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("the quota is not used up")
	}
	// Refusals go on.
	for range 45 {
		_, _ = client.Put(ctx, "more", "")
		p.scrape(1, 10*time.Millisecond)
	}
	p.expect([]string{"etcdDatabaseQuotaLowSpace", "etcdNoSpaceAlarm", "etcdHighNumberOfFailedGRPCRequests"})

	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	limit(t, m.Pid(), uint64(len(files)+4))
	p.scrape(24, quickly)
	id, err := m.ID()
	if err != nil {
		t.Fatal(err)
	}
	_, err = pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_CORRUPT})
	if err != nil {
		t.Fatal(err)
	}
	p.scrape(2, quickly)
	p.expect([]string{"etcdDatabaseQuotaLowSpace", "etcdNoSpaceAlarm", "etcdHighNumberOfFailedGRPCRequests",
		"etcdFileDescriptorsLow", "etcdCorruptAlarm"})
}

// alertSnapshot: the network breaks while a member gets a snapshot.
func alertSnapshot(t *testing.T) {
	c := harness.LaunchCluster(t, true, []harness.Kind{harness.Ours, harness.Ours, harness.Ours}, lagFlags...)
	leader := c.WaitLeader()
	lagging := c.Others(leader)[0]
	lagging.Kill()
	fillLog(t, c, leader, lagEntries)
	p := newPrometheus(t, c.Others(lagging)...)
	p.scrape(62, time.Millisecond) // an hour's quarter, to which the rule looks back
	c.Net.Set(leader, lagging, harness.Link{Rate: 40_000})
	if err := lagging.Spawn(); err != nil {
		t.Fatal(err)
	}
	const inflight = "etcd_network_snapshot_send_inflights_total"
	sends := func() bool {
		for sample, value := range scrape(leader) {
			if strings.HasPrefix(sample, inflight) && value > 0 {
				return true
			}
		}
		return false
	}
	for range 200 {
		if sends() {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !sends() {
		t.Fatal("no snapshot is sent")
	}
	c.Net.Set(leader, lagging, harness.Link{Cut: true})
	for range 200 {
		if !sends() {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.scrape(3, quickly)
	p.expect([]string{"etcdSnapshotTransferFailed"})
}
