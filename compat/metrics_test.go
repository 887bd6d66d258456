package compat

import (
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate/compat/harness"
)

// scrape reads the samples of a member.
func scrape(m *harness.Member) map[string]float64 {
	p, err := http.Get(m.ClientURL() + "/metrics")
	if err != nil {
		panic(abort(err.Error()))
	}
	defer p.Body.Close()
	text, err := io.ReadAll(p.Body)
	if err != nil {
		panic(abort(err.Error()))
	}
	return parseSamples(string(text))
}

// parseSamples reads the lines of a scrape.
func parseSamples(text string) map[string]float64 {
	samples := map[string]float64{}
	for _, line := range splitLines(text) {
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			panic(abort(line))
		}
		samples[line[:at]] = value
	}
	return samples
}

// counted are the samples that say how often something was done, and what must be equal in them.
func counted(name string) bool {
	for _, prefix := range []string{"etcd_mvcc_put_total", "etcd_mvcc_range_total", "etcd_mvcc_txn_total",
		"etcd_mvcc_delete_total", "etcd_debugging_mvcc_total_put_size_in_bytes",
		"etcd_debugging_lease_granted_total", "etcd_debugging_lease_revoked_total",
		"etcd_debugging_lease_renewed_total", "etcd_debugging_lease_ttl_total",
		"etcd_server_apply_duration_seconds_count", "etcd_server_request_duration_seconds_count",
		"etcd_server_range_duration_seconds_count", "etcd_debugging_mvcc_keys_total",
		"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count",
		"grpc_server_handled_total"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// TestMetrics does the same on both and compares by how much each counter has grown.
func TestMetrics(t *testing.T) {
	p := launchPair(t)
	for _, one := range []Case{
		{Name: "puts", Run: func(c *C) {
			c.Put("a=1", "b=22")
			c.PutReq(&pb.PutRequest{Key: b("a"), Value: b("333"), PrevKv: true})
			c.PutReq(&pb.PutRequest{Key: b("a"), IgnoreValue: true})
			c.PutReq(&pb.PutRequest{Key: b("nothing"), IgnoreValue: true})
			c.PutReq(&pb.PutRequest{Key: b("a"), Lease: 404})
			c.PutReq(&pb.PutRequest{})
		}},
		{Name: "deletes", Run: func(c *C) {
			c.Put("a=1", "b=2", "c=3")
			for _, q := range []*pb.DeleteRangeRequest{{Key: b("a")}, {Key: b("a")},
				{Key: b("b"), RangeEnd: b("z"), PrevKv: true}, {}} {
				_, err := c.KV.DeleteRange(c.Ctx, q)
				c.Log("%s", harness.Error(err))
			}
		}},
		{Name: "ranges", Run: func(c *C) {
			c.Put("a=1", "b=2")
			for _, q := range []*pb.RangeRequest{{Key: b("a")}, {Key: b("a"), Serializable: true},
				{Key: b("a"), RangeEnd: b("z"), CountOnly: true}, {Key: b("a"), RangeEnd: b("z"), Limit: 1},
				{Key: b("a"), Revision: 1 << 40}, {}, {Key: b("a"), RangeEnd: b("z"), SortOrder: 2}} {
				_, err := c.KV.Range(c.Ctx, q)
				c.Log("%s", harness.Error(err))
			}
		}},
		{Name: "transactions", Run: func(c *C) {
			c.Put("a=1")
			held := &pb.Compare{Key: b("a"), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}
			c.Txn(then(put("b", "1")))
			c.Txn(then(put("b", "1"), get("a")))
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{held}, Success: []*pb.RequestOp{put("c", "1")}})
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{never(), held, held}, Failure: []*pb.RequestOp{put("c", "1")}})
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{held, held, never()}, Failure: []*pb.RequestOp{get("c")}})
			c.Txn(&pb.TxnRequest{Compare: []*pb.Compare{held}, Success: []*pb.RequestOp{
				sub(&pb.TxnRequest{Compare: []*pb.Compare{held}, Success: []*pb.RequestOp{
					putOp(&pb.PutRequest{Key: b("a"), Value: b("long"), PrevKv: true})}}),
				delOp(&pb.DeleteRangeRequest{Key: b("b"), RangeEnd: b("d"), PrevKv: true})}})
			c.Txn(then(putOp(&pb.PutRequest{Key: b("a"), IgnoreLease: true, Value: b("x")}),
				putOp(&pb.PutRequest{Key: b("gone"), IgnoreValue: true})))
			c.Txn(then(putOp(&pb.PutRequest{Key: b("a"), PrevKv: true, Lease: 404})))
			c.Txn(then(rangeOp(&pb.RangeRequest{Key: b("a"), Revision: 1 << 40})))
			c.Txn(then())
			c.Txn(then(get("a")))
			c.Txn(then(put("a", "1"), put("a", "2")))
		}},
		{Name: "leases", Run: func(c *C) {
			c.Grant(71, 1000)
			c.Grant(71, 1000)
			c.Grant(72, 60)
			for _, key := range []string{"a", "b", "c"} {
				c.PutReq(&pb.PutRequest{Key: b(key), Lease: 71})
			}
			c.Revoke(71)
			c.Revoke(72)
			c.Revoke(73)
		}},
		{Name: "compaction", Run: func(c *C) {
			c.Put("a=1", "a=2")
			c.Compact(c.Base+2, true)
			c.Compact(c.Base+1, false)
		}},
	} {
		t.Run(one.Name, func(t *testing.T) {
			grown := both(func(kind harness.Kind) string {
				before := scrape(p[kind])
				said := runCase(one, p[kind])
				var lines []string
				for name, value := range scrape(p[kind]) {
					if one.Name == "compaction" && name == "etcd_mvcc_range_total" {
						continue // etcd asks itself for its revision, and counts that
					}
					if counted(name) && value != before[name] {
						lines = append(lines, fmt.Sprint(name, " +", value-before[name]))
					}
				}
				sort.Strings(lines)
				return joinLines(lines) + "\n" + said
			})
			if grown[0] != grown[1] {
				t.Errorf("etcd:\n%s\nquorate:\n%s", grown[0], grown[1])
			}
		})
	}
	t.Run("expiry", func(t *testing.T) { metricsExpiry(t, p) })
}

// metricsExpiry: a lease that runs out deletes its keys, and counts as a revocation.
func metricsExpiry(t *testing.T, p pair) {
	grown := both(func(kind harness.Kind) string {
		before := scrape(p[kind])
		runCase(Case{Run: func(c *C) {
			c.Grant(81, 1)
			c.PutReq(&pb.PutRequest{Key: b("a"), Lease: 81})
			c.PutReq(&pb.PutRequest{Key: b("b"), Lease: 81})
		}}, p[kind])
		const revoked, deleted = "etcd_debugging_lease_revoked_total", "etcd_mvcc_delete_total"
		after := scrape(p[kind])
		deletes := after[deleted]
		for range 100 {
			if after[revoked] != before[revoked] {
				break
			}
			time.Sleep(100 * time.Millisecond)
			after = scrape(p[kind])
		}
		return fmt.Sprint(after[revoked]-before[revoked], " revoked, ", after[deleted]-deletes, " deleted")
	})
	if grown[0] != grown[1] {
		t.Errorf("etcd: %s\nquorate: %s", grown[0], grown[1])
	}
}
