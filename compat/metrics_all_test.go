package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"quorate/compat/harness"
)

// A family is one metric as a scraper sees it.
type family struct {
	kind    string
	series  map[string]float64 // by its labels, `le` included, in braces
	labels  map[string]map[string]bool
	buckets map[string]bool
}

// families reads what a member shows.
func families(t testing.TB, m *harness.Member) map[string]*family {
	t.Helper()
	p, err := http.Get(m.ClientURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Body.Close()
	text, err := io.ReadAll(p.Body)
	if err != nil || p.StatusCode != http.StatusOK {
		t.Fatal(p.Status, err)
	}
	all := map[string]*family{}
	var now *family
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		words := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if len(words) < 4 || words[3] == "" {
				t.Errorf("%s: nothing is said of it", words[2])
			}
		case strings.HasPrefix(line, "# TYPE "):
			now = &family{words[3], map[string]float64{}, map[string]map[string]bool{}, map[string]bool{}}
			if all[words[2]] != nil {
				t.Errorf("%s comes twice", words[2])
			}
			all[words[2]] = now
		default:
			now.add(t, line)
		}
	}
	return all
}

func (f *family) add(t testing.TB, line string) {
	t.Helper()
	space := strings.LastIndexByte(line, ' ')
	value, err := strconv.ParseFloat(line[space+1:], 64)
	if err != nil {
		t.Fatal(line)
	}
	if _, twice := f.series[line[:space]]; twice {
		t.Errorf("%s comes twice", line[:space])
	}
	f.series[line[:space]] = value
	_, rest, has := strings.Cut(line[:space], "{")
	if !has {
		return
	}
	for _, pair := range strings.Split(strings.TrimSuffix(rest, "}"), "\",") {
		name, text, _ := strings.Cut(pair, "=\"")
		text = strings.TrimSuffix(text, "\"")
		if name == "le" {
			f.buckets[text] = true
			continue
		}
		if f.labels[name] == nil {
			f.labels[name] = map[string]bool{}
		}
		f.labels[name][text] = true
	}
}

// meaningless are etcd's families that cannot have a value of ours, with the reason. COMPAT.md has the
// same list.
var meaningless = map[string]string{
	"go_":                    "of Go's runtime",
	"etcd_server_go_version": "of Go's runtime",
	"etcd_grpc_proxy_":       "of the gRPC proxy, which is a process of its own; etcd's server always shows 0",
	"etcd_debugging_store_":  "of the store of version 2",
	"etcd_debugging_disk_backend_commit_rebalance_duration_seconds": "a commit merges small pages while it makes the others: there is no such step",
}

func isMeaningless(name string) bool {
	for prefix := range meaningless {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// ids are labels whose values differ from member to member and from run to run.
var ids = map[string]bool{"Local": true, "Remote": true, "To": true, "From": true, "server_id": true}

// fleeting are families that are there when something went wrong on a connection; whether it did in a
// member that was killed or caught up is a matter of moments.
var fleeting = map[string]bool{
	"etcd_network_disconnected_peers_total": true, "etcd_network_peer_sent_failures_total": true,
	"etcd_network_peer_received_failures_total": true,
	// Ours counts nonsense from clients; etcd counts a transport that fails at the right moment.
	"etcd_network_server_stream_failures_total": true,
}

// compareFamilies demands the same names, types, labels and buckets, and the same values of labels if
// both have lived through the same.
func compareFamilies(t *testing.T, real, ours map[string]*family, sameLife bool) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(real)) {
		theirs, own := real[name], ours[name]
		if isMeaningless(name) != (own == nil) && !fleeting[name] {
			t.Errorf("%s: to be absent %v, is there %v", name, isMeaningless(name), own != nil)
		}
		if own == nil {
			continue
		}
		if own.kind != theirs.kind {
			t.Errorf("%s is a %s, etcd's is a %s", name, own.kind, theirs.kind)
		}
		sorted := func(set map[string]bool) string { return fmt.Sprint(slices.Sorted(maps.Keys(set))) }
		if a, b := sorted(theirs.buckets), sorted(own.buckets); a != b {
			t.Errorf("%s: buckets\netcd:    %s\nquorate: %s", name, a, b)
		}
		for label := range own.labels {
			if theirs.labels[label] == nil {
				t.Errorf("%s: etcd has no label %s", name, label)
			}
		}
		for label, values := range theirs.labels {
			a, b := sorted(values), sorted(own.labels[label])
			if own.labels[label] == nil || a != b && sameLife && !ids[label] {
				t.Errorf("%s: label %s\netcd:    %s\nquorate: %s", name, label, a, b)
			}
		}
	}
	for name := range ours {
		if real[name] == nil && !fleeting[name] && !strings.HasPrefix(name, "quorate_") {
			t.Errorf("etcd has no %s", name)
		}
	}
}

// equalValues are samples that must be the same on both when the same was done, by their prefix. Reads
// that etcd makes for itself are done away with by what grew.
var equalValues = []string{
	"etcd_mvcc_put_total", "etcd_mvcc_delete_total", "etcd_mvcc_txn_total",
	"etcd_debugging_mvcc_total_put_size_in_bytes", "etcd_debugging_mvcc_keys_total",
	"etcd_debugging_mvcc_current_revision", "etcd_debugging_mvcc_compact_revision",
	"etcd_debugging_mvcc_events_total", "etcd_debugging_mvcc_watch", "etcd_debugging_mvcc_slow_watcher_total",
	"etcd_debugging_mvcc_pending_events_total", "etcd_debugging_mvcc_db_compaction_keys_total",
	"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count",
	"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count",
	"etcd_debugging_lease_", "etcd_debugging_server_lease_expired_total", "etcd_debugging_auth_revision",
	"etcd_debugging_server_watch_send_loop_control_stream_duration_seconds_count",
	"etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds_count",
	"etcd_debugging_server_watch_send_loop_progress_duration_seconds_count",
	"etcd_disk_backend_defrag_duration_seconds_count", "etcd_disk_defrag_inflight",
	"etcd_disk_backend_snapshot_duration_seconds_count", "etcd_mvcc_hash_",
	"etcd_network_client_grpc_received_bytes_total",
	"etcd_server_client_requests_total", "etcd_server_health_", "etcd_server_healthcheck",
	"etcd_server_has_leader", "etcd_server_is_leader", "etcd_server_is_learner", "etcd_server_feature_enabled",
	"etcd_server_quota_backend_bytes", "etcd_server_version", "etcd_cluster_version",
	"etcd_server_learner_promote_", "etcd_server_proposals_failed_total", "etcd_server_proposals_pending",
	"etcd_server_apply_duration_seconds_count", "etcd_server_snapshot_apply_in_progress_total",
	"etcd_server_slow_read_indexes_total", "etcd_server_read_indexes_failed_total",
	"grpc_server_started_total", "grpc_server_handled_total", "grpc_server_msg_",
	"grpc_server_handling_seconds_count", "os_fd_limit", "process_max_fds",
	"process_virtual_memory_max_bytes", "promhttp_metric_handler_requests_in_flight",
}

// hashes by time: how long a hash takes decides its bucket.
func isTimed(sample string) bool {
	return strings.Contains(sample, "_seconds_bucket") || strings.Contains(sample, "_seconds_sum") ||
		strings.Contains(sample, "_milliseconds_bucket")
}

func comparable(sample string) bool {
	return !isTimed(sample) && slices.ContainsFunc(equalValues, func(prefix string) bool {
		return strings.HasPrefix(sample, prefix)
	})
}

// grown tells by how much samples that must be equal have grown; the whole value of those that say
// what is now.
func compareValues(t *testing.T, families [2]map[string]*family) {
	t.Helper()
	values := func(all map[string]*family) map[string]float64 {
		found := map[string]float64{}
		for _, one := range all {
			for sample, value := range one.series {
				if comparable(sample) && !strings.Contains(sample, "server_id=") {
					found[sample] = value
				}
			}
		}
		return found
	}
	real, ours := values(families[harness.Real]), values(families[harness.Ours])
	compared := 0
	for sample, value := range real {
		if own, is := ours[sample]; !is || own != value {
			t.Errorf("%s: etcd %v, quorate %v", sample, value, own)
		}
		compared++
	}
	for sample := range ours {
		if _, is := real[sample]; !is {
			t.Errorf("etcd has no %s", sample)
		}
	}
	t.Logf("evidence: %d values are equal", compared)
}

// exercise does something of everything on a single member.
func exercise(c *C) {
	c.Put("a=1", "b=22", "c=333")
	for _, key := range []string{"a", "nothing"} {
		_, err := c.KV.Range(c.Ctx, &pb.RangeRequest{Key: b(key)})
		c.Log("%s", harness.Error(err))
	}
	_, err := c.KV.Range(c.Ctx, &pb.RangeRequest{})
	c.Log("%s", harness.Error(err))
	c.Txn(then(put("d", "4"), get("a")))
	c.Txn(then(get("a")))
	_, err = c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: b("b")})
	c.Log("%s", harness.Error(err))
	c.Grant(71, 1000)
	c.Grant(72, 1000)
	for _, key := range []string{"l/1", "l/2", "l/3"} {
		c.PutReq(&pb.PutRequest{Key: b(key), Lease: 71})
	}
	c.Revoke(71)
	c.Revoke(404)
	c.Compact(c.Base+2, true)
}

// streamed is what the workload does by streams and over HTTP.
func streamed(t *testing.T, m *harness.Member) {
	conn, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(m.Kind, err)
		}
	}
	// A watcher that is told of three events, one by one, and is canceled.
	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	must(err)
	create := &pb.WatchCreateRequest{Key: b("w")}
	must(watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
	_, err = watch.Recv()
	must(err)
	kv := pb.NewKVClient(conn)
	for range 3 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: b("w"), Value: b("x")})
		must(err)
		_, err = watch.Recv()
		must(err)
	}
	must(watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: 0}}}))
	_, err = watch.Recv()
	must(err)
	must(watch.CloseSend())

	// One that stays.
	staying, err := pb.NewWatchClient(conn).Watch(ctx)
	must(err)
	must(staying.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
	_, err = staying.Recv()
	must(err)

	alive, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
	must(err)
	must(alive.Send(&pb.LeaseKeepAliveRequest{ID: 72}))
	_, err = alive.Recv()
	must(err)
	must(alive.CloseSend())
	_, err = alive.Recv()
	if err != io.EOF {
		t.Error(m.Kind, err)
	}

	maintenance := pb.NewMaintenanceClient(conn)
	_, err = maintenance.Defragment(ctx, &pb.DefragmentRequest{})
	must(err)
	_, err = maintenance.Hash(ctx, &pb.HashRequest{})
	must(err)
	_, err = maintenance.HashKV(ctx, &pb.HashKVRequest{})
	must(err)
	_, err = maintenance.Status(ctx, &pb.StatusRequest{})
	must(err)
	for _, path := range []string{"/health", "/health?serializable=true", "/livez", "/readyz"} {
		p, err := http.Get(m.ClientURL() + path)
		must(err)
		p.Body.Close()
	}
	// What is no request breaks a stream.
	for _, path := range []string{"/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"} {
		bad, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path,
			grpc.ForceCodec(rawCodec{}))
		must(err)
		nonsense := []byte{0xff, 0xff}
		must(bad.SendMsg(&nonsense))
		var answer []byte
		if err := bad.RecvMsg(&answer); err == nil {
			t.Error(m.Kind, path, "takes nonsense")
		} else {
			t.Log(m.Kind, path, err)
		}
	}
}

// TestMetricsAll does something of everything on both, and compares everything that can be scraped.
func TestMetricsAll(t *testing.T) {
	t.Parallel()
	for _, detail := range []string{"basic", "extensive"} {
		t.Run(detail, func(t *testing.T) {
			p := launchPair(t, "--metrics="+detail)
			said := both(func(kind harness.Kind) string {
				said := runCase(Case{Run: exercise}, p[kind])
				streamed(t, p[kind])
				return said
			})
			if said[0] != said[1] {
				t.Errorf("etcd:\n%s\nquorate:\n%s", said[0], said[1])
			}
			expired(t, p)
			compareValues(t, settledFamilies(t, p))
			raisedAndDisarmed(t, p)
			seen := settledFamilies(t, p)
			compareFamilies(t, seen[harness.Real], seen[harness.Ours], true)
		})
	}
}

// expired lets a lease run out, with a key.
func expired(t *testing.T, p pair) {
	t.Helper()
	both(func(kind harness.Kind) bool {
		before := families(t, p[kind])
		runCase(Case{Run: func(c *C) {
			c.Grant(81, 1)
			c.PutReq(&pb.PutRequest{Key: b("e"), Lease: 81})
		}}, p[kind])
		const name = "etcd_debugging_server_lease_expired_total"
		for range 100 {
			if families(t, p[kind])[name].series[name] != before[name].series[name] {
				return true
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error(p[kind].Kind, "ends no lease")
		return false
	})
}

// raisedAndDisarmed raises an alarm and takes it back.
func raisedAndDisarmed(t *testing.T, p pair) {
	t.Helper()
	both(func(kind harness.Kind) bool {
		client := p[kind].Client()
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		id, err := p[kind].ID()
		if err != nil {
			t.Error(err)
			return false
		}
		conn := client.ActiveConnection()
		_, err = pb.NewMaintenanceClient(conn).Alarm(ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
		if err == nil {
			_, err = client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: id, Alarm: pb.AlarmType_NOSPACE})
		}
		if err != nil {
			t.Error(err)
		}
		return err == nil
	})
}

// settledFamilies waits until nothing is on its way, and the compactions are done.
func settledFamilies(t *testing.T, p pair) [2]map[string]*family {
	t.Helper()
	time.Sleep(200 * time.Millisecond)
	return both(func(kind harness.Kind) map[string]*family { return families(t, p[kind]) })
}

// TestMetricsCluster compares what three members of each show, in each role, with one that is gone and
// one that needs a snapshot.
func TestMetricsCluster(t *testing.T) {
	t.Parallel()
	shown := both(func(kind harness.Kind) map[string]map[string]*family { return clusterFamilies(t, kind) })
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		t.Run("dashboard and rules of "+kind.String(), func(t *testing.T) { checkDeployed(t, shown[kind], kind) })
	}
	for role, real := range shown[harness.Real] {
		t.Run(role, func(t *testing.T) { compareFamilies(t, real, shown[harness.Ours][role], role != "caught up") })
	}
}

func clusterFamilies(t *testing.T, kind harness.Kind) map[string]map[string]*family {
	c := harness.LaunchCluster(t, false, []harness.Kind{kind, kind, kind}, append([]string{"--metrics=extensive"}, lagFlags...)...)
	leader := c.WaitLeader()
	others := c.Others(leader)
	lagging, follower := others[0], others[1]
	lagging.Kill()
	fillLog(t, c, leader, lagEntries)
	c.Start(lagging)
	c.Settle()
	has := func(m *harness.Member, name string) bool { return families(t, m)[name] != nil }
	for range 200 {
		if has(leader, "etcd_network_snapshot_send_success") &&
			has(leader, "etcd_network_peer_round_trip_time_seconds") &&
			has(follower, "etcd_network_peer_round_trip_time_seconds") &&
			has(lagging, "etcd_network_peer_round_trip_time_seconds") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, name := range []string{"etcd_network_disconnected_peers_total", "etcd_network_peer_sent_failures_total"} {
		if !has(leader, name) {
			t.Errorf("the leader of %s shows no %s", kind, name)
		}
	}
	return map[string]map[string]*family{
		"leader": families(t, leader), "follower": families(t, follower), "caught up": families(t, lagging),
	}
}

// TestMetricsHangingScrapers lets many scrapers ask and read nothing: the next one is answered, and the
// memory stays bounded.
func TestMetricsHangingScrapers(t *testing.T) {
	t.Parallel()
	m := harness.Launch(t, harness.Ours, "--metrics=extensive")
	before, _, err := m.Memory()
	if err != nil {
		t.Fatal(err)
	}
	const scrapers = 60
	for range scrapers {
		conn, err := net.Dial("tcp", m.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		// Several at once, so that what the socket takes is not all.
		for range 20 {
			fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	for range 50 {
		if families(t, m)["promhttp_metric_handler_requests_total"].
			series[`promhttp_metric_handler_requests_total{code="200"}`] >= scrapers {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Who still has room asks again and waits for the next text; then nobody waits but this one.
	const inFlight = "promhttp_metric_handler_requests_in_flight"
	in := families(t, m)[inFlight].series[inFlight]
	for deadline := time.Now().Add(20 * time.Second); in > 1; in = families(t, m)[inFlight].series[inFlight] {
		if time.Now().After(deadline) {
			t.Errorf("%v answers are on their way", in)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	after, _, err := m.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if after-before > 64 {
		t.Errorf("%d scrapers that hang take %d MiB", scrapers, after-before)
	}
	t.Logf("evidence: %d scrapers hang, memory %d -> %d MiB", scrapers, before, after)
}

// named is one expression of a dashboard or a rule, and the metrics in it.
type named struct {
	from, expr string
	metrics    []string
}

// deployed lists every expression that is shipped in deploy/.
func deployed(t *testing.T) []named {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "..", "deploy", "grafana", "quorate.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	var all []named
	var expressions []string
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			all = append(all, named{from: panel.Title, expr: target.Expr})
			expressions = append(expressions, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	var metrics [][]string
	if err := harness.Promql(expressions, &metrics, "names"); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i].metrics = metrics[i]
	}
	for name := range namedByRules(t) {
		all = append(all, named{"rules", name, []string{name}})
	}
	return all
}

// checkDeployed: what the dashboard and the rules name is there, in ours, and in etcd unless it is ours.
func checkDeployed(t *testing.T, shown map[string]map[string]*family, kind harness.Kind) {
	t.Helper()
	known := map[string]bool{"up": true, "etcd_debugging_server_alarms": true,
		"etcd_network_snapshot_send_failures": true, "grpc_service": true}
	for _, role := range shown {
		for name, one := range role {
			known[name] = true
			if one.kind == "histogram" {
				known[name+"_bucket"] = true
			}
		}
	}
	for _, one := range deployed(t) {
		if len(one.metrics) == 0 {
			t.Errorf("%s: %s names no metric", one.from, one.expr)
		}
		for _, name := range one.metrics {
			ours := strings.HasPrefix(name, "quorate_")
			if !known[name] && !(ours && kind == harness.Real) {
				t.Errorf("%s: %s has no %s", one.from, kind, name)
			}
		}
	}
}
