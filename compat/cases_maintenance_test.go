package compat

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"quorate/compat/harness"
)

// Alarm logs one call of Alarm.
func (c *C) Alarm(action pb.AlarmRequest_AlarmAction, member uint64, alarm pb.AlarmType) {
	call(c, fmt.Sprintf("%s %s", action, alarm), c.Maint.Alarm,
		&pb.AlarmRequest{Action: action, MemberID: member, Alarm: alarm})
}

// snapshot downloads a snapshot and checks its shape.
func (c *C) snapshot() []byte {
	c.settle() // it tells the version of the storage
	stream, err := c.Maint.Snapshot(c.Ctx, &pb.SnapshotRequest{})
	c.Must(err)
	var chunks []*pb.SnapshotResponse
	for {
		p, err := stream.Recv()
		if err == io.EOF {
			break
		}
		c.Must(err)
		chunks = append(chunks, p)
	}
	if len(chunks) < 2 {
		c.Fail("only %d chunks", len(chunks))
	}
	var db []byte
	last := len(chunks) - 1
	var total uint64
	for _, p := range chunks[:last] {
		total += uint64(len(p.Blob))
	}
	wrong := 0
	for _, p := range chunks[:last] {
		db = append(db, p.Blob...)
		if len(p.Blob) > 32768 || len(p.Blob) == 0 || p.RemainingBytes != total-uint64(len(db)) {
			wrong++
		}
	}
	digest := sha256.Sum256(db)
	c.Log("trailer right %v, remaining %d, chunks out of shape %d, pages whole %v, header %v, version %q %q",
		bytes.Equal(digest[:], chunks[last].Blob), chunks[last].RemainingBytes, wrong,
		len(db)%4096 == 0, chunks[0].Header != nil, chunks[0].Version, chunks[last].Version)
	return append(db, digest[:]...)
}

// etcdutl runs the real etcdutl.
func etcdutl(args ...string) (string, error) {
	tools, err := harness.LoadTools()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(tools.Etcdutl, args...).CombinedOutput()
	return string(out), err
}

func (c *C) snapshotFile() string {
	dir, err := os.MkdirTemp("", "compat-snapshot")
	c.Must(err)
	file := filepath.Join(dir, "file.db")
	c.Must(os.WriteFile(file, c.snapshot(), 0o600))
	return file
}

func init() {
	const (
		list = pb.AlarmRequest_GET
		on   = pb.AlarmRequest_ACTIVATE
		off  = pb.AlarmRequest_DEACTIVATE
	)
	register("alarm",
		Case{Name: "none", Run: func(c *C) {
			c.Alarm(list, 0, pb.AlarmType_NONE)
			c.Alarm(list, 7, pb.AlarmType_CORRUPT)
			c.Alarm(off, 0, pb.AlarmType_NOSPACE)
			c.Alarm(on, 0, pb.AlarmType_NONE)
		}},
		Case{Name: "activate and deactivate", Run: func(c *C) {
			c.Alarm(on, c.Self, pb.AlarmType_NOSPACE)
			c.Alarm(on, c.Self, pb.AlarmType_NOSPACE)
			c.Alarm(list, 0, pb.AlarmType_NONE)
			c.Alarm(list, 0, pb.AlarmType_NOSPACE)
			c.Alarm(list, 0, pb.AlarmType_CORRUPT)
			c.Alarm(off, 0, pb.AlarmType_NOSPACE)
			c.Alarm(off, c.Self, pb.AlarmType_CORRUPT)
			c.Alarm(off, c.Self, pb.AlarmType_NONE)
			c.Alarm(list, 0, pb.AlarmType_NONE)
			c.Alarm(off, c.Self, pb.AlarmType_NOSPACE)
			c.Alarm(list, 0, pb.AlarmType_NONE)
		}},
		Case{Name: "of other members", Run: func(c *C) {
			c.Alarm(on, 5, pb.AlarmType_NOSPACE)
			c.Alarm(on, 0, pb.AlarmType_CORRUPT)
			p, err := c.Maint.Alarm(c.Ctx, &pb.AlarmRequest{})
			c.Must(err)
			c.Log("%d alarms", len(p.Alarms))
			c.Alarm(off, 5, pb.AlarmType_NOSPACE)
			c.Alarm(off, 0, pb.AlarmType_CORRUPT)
			c.Alarm(list, 0, pb.AlarmType_NONE)
		}},
		Case{Name: "NOSPACE blocks what grows", Run: func(c *C) {
			c.Put("a=1", "b=1")
			c.Grant(5, 60)
			c.Alarm(on, c.Self, pb.AlarmType_NOSPACE)
			c.PutReq(&pb.PutRequest{Key: b("a")})
			c.PutReq(&pb.PutRequest{})
			c.Grant(6, 60)
			c.Grant(5, 60)
			c.Txn(then(put("a", "1")))
			c.Txn(&pb.TxnRequest{Failure: []*pb.RequestOp{put("a", "1")}})
			c.Txn(then(sub(then(put("a", "1")))))
			c.Txn(then(get("a"), del("b", "")))
			c.Txn(then(get("a")))
			c.Del(&pb.DeleteRangeRequest{Key: b("a")})
			c.Compact(c.Rev(2), true)
			c.KeepAlive(5)
			c.Revoke(5)
			c.All()
			c.Alarm(off, c.Self, pb.AlarmType_NOSPACE)
			c.PutReq(&pb.PutRequest{Key: b("a")})
		}},
		Case{Name: "CORRUPT blocks every write", Run: func(c *C) {
			c.Put("a=1")
			c.Grant(5, 60)
			c.Alarm(on, c.Self, pb.AlarmType_CORRUPT)
			c.PutReq(&pb.PutRequest{Key: b("a")})
			c.PutReq(&pb.PutRequest{})
			c.Grant(6, 60)
			c.Revoke(5)
			c.Txn(then(put("a", "1")))
			c.Txn(then(get("a"), del("b", "")))
			c.Txn(then(get("a")))
			c.Del(&pb.DeleteRangeRequest{Key: b("a")})
			c.Compact(c.Rev(1), true)
			c.All()
			c.Range(&pb.RangeRequest{Key: b("a"), Serializable: true})
			c.Alarm(off, c.Self, pb.AlarmType_CORRUPT)
			c.PutReq(&pb.PutRequest{Key: b("a")})
		}},
		Case{Name: "both at once", Run: func(c *C) {
			c.Alarm(on, c.Self, pb.AlarmType_NOSPACE)
			c.Alarm(on, c.Self, pb.AlarmType_CORRUPT)
			c.PutReq(&pb.PutRequest{Key: b("a")})
			c.Grant(6, 60)
			c.Del(&pb.DeleteRangeRequest{Key: b("a")})
		}},
		Case{Name: "is seen in status and health", Run: func(c *C) {
			c.Alarm(on, c.Self, pb.AlarmType_NOSPACE)
			p, err := c.Maint.Status(c.Ctx, &pb.StatusRequest{})
			c.Must(err)
			for _, text := range p.Errors {
				text = strings.Join(strings.Fields(text), " ")
				c.Log("%s", strings.ReplaceAll(text, fmt.Sprint(c.Self), "SELF"))
			}
			c.HTTP("GET", "/health")
			c.HTTP("GET", "/health?exclude=NOSPACE")
			c.HTTP("GET", "/readyz")
			c.Alarm(on, c.Self, pb.AlarmType_CORRUPT)
			c.HTTP("GET", "/health?exclude=NOSPACE")
			c.HTTP("GET", "/health?exclude=NOSPACE&exclude=CORRUPT")
			c.HTTP("GET", "/readyz/data_corruption")
			c.HTTP("GET", "/livez")
		}},
		Case{Name: "quota is exceeded", Flags: []string{"--quota-backend-bytes=3000000"}, Run: overQuota},
	)
	register("maintenance",
		Case{Name: "status", Run: func(c *C) {
			c.settle()
			c.Put("a=1")
			p := call(c, "status", c.Maint.Status, &pb.StatusRequest{})
			c.Log("in use is within %v, index above applied %v", p.DbSizeInUse <= p.DbSize,
				p.RaftIndex >= p.RaftAppliedIndex)
		}},
		Case{Name: "status of a fresh member", Own: true, Run: func(c *C) {
			c.settle()
			p := call(c, "status", c.Maint.Status, &pb.StatusRequest{})
			c.Log("term %d", p.RaftTerm)
		}},
		Case{Name: "status shows the quota", Flags: []string{"--quota-backend-bytes=-1"},
			Run: func(c *C) {
				c.settle()
				call(c, "status", c.Maint.Status, &pb.StatusRequest{})
			}},
		// On servers of its own: in others the leases of earlier cases may still be ending.
		Case{Name: "raft index grows by one for each write", Own: true, Run: func(c *C) {
			c.settle()
			index := func() uint64 {
				p, err := c.Maint.Status(c.Ctx, &pb.StatusRequest{})
				c.Must(err)
				return p.RaftIndex
			}
			before := index()
			c.Put("a=1")
			c.Log("put %d", index()-before)
			c.Del(&pb.DeleteRangeRequest{Key: b("zz")})
			c.Log("delete of nothing %d", index()-before)
			c.All()
			c.Log("range %d", index()-before)
			c.PutReq(&pb.PutRequest{Key: b("a"), Lease: 99})
			c.Log("failed put %d", index()-before)
			c.Txn(then(get("a")))
			c.Log("read only txn %d", index()-before)
			c.Txn(then(sub(then(get("a")))))
			c.Log("nested read only txn %d", index()-before)
			c.Alarm(list, 0, 0)
			c.Log("alarm get %d", index()-before)
			c.Grant(5, 60)
			c.KeepAlive(5)
			c.Log("grant and keepalive %d", index()-before)
		}},
		Case{Name: "member list", Run: func(c *C) {
			call(c, "members", c.Cluster.MemberList, &pb.MemberListRequest{})
			call(c, "members", c.Cluster.MemberList, &pb.MemberListRequest{Linearizable: true})
		}},
		Case{Name: "hash", Run: func(c *C) {
			c.Put("a=1")
			p, err := c.Maint.Hash(c.Ctx, &pb.HashRequest{})
			if err == nil {
				c.Log("some hash %v", p.Hash != 0)
				p.Hash = 0
			}
			c.Answer("hash", p, err)
		}},
		Case{Name: "hash changes with the data only", Run: func(c *C) {
			c.Put("a=1")
			hash := func() uint32 {
				p, err := c.Maint.Hash(c.Ctx, &pb.HashRequest{})
				c.Must(err)
				return p.Hash
			}
			first := hash()
			c.Log("same %v", first == hash())
			c.Put("a=2")
			c.Log("same %v", first == hash())
		}},
		Case{Name: "defragment", Run: func(c *C) {
			c.Put("a=1", "b=1")
			call(c, "defragment", c.Maint.Defragment, &pb.DefragmentRequest{})
			c.Put("c=1")
			c.All()
		}},
		Case{Name: "snapshot", Run: func(c *C) {
			churn(c)
			file := c.snapshotFile()
			defer os.RemoveAll(filepath.Dir(file))
			out, err := etcdutl("snapshot", "status", file, "-w", "fields")
			c.Log("accepted %v", err == nil)
			for _, line := range strings.Split(out, "\n") {
				if strings.Contains(line, "Revision") || strings.Contains(line, "Version") {
					c.Log("%s", strings.ReplaceAll(line, fmt.Sprint(c.Rev(12)), "NOW"))
				}
			}
			out, err = etcdutl("hashkv", file)
			if err != nil {
				c.Fail("%s", out)
			}
			c.Log("hashkv of the file: %s", strings.Split(out, ",")[0])
			c.Log("hashkv of the member: %d", c.HashKV(0).GetHash())
		}, Own: true},
		Case{Name: "snapshot counts what is there", Own: true, Run: func(c *C) {
			status := func(when string) {
				file := c.snapshotFile()
				defer os.RemoveAll(filepath.Dir(file))
				out, err := etcdutl("snapshot", "status", file, "-w", "json")
				if err != nil {
					c.Fail("%s", out)
				}
				var found struct {
					Revision, TotalKey int64
					Version            string
				}
				c.Must(json.Unmarshal(b(out), &found))
				c.Log("%s: revision %d, %d keys, version %s", when, found.Revision, found.TotalKey,
					found.Version)
			}
			status("fresh")
			c.Put("a=1")
			status("after one put")
			for i := range 400 { // so that the pages of the keys are split
				c.Put(fmt.Sprintf("k%03d=%s", i, strings.Repeat("v", i)))
				if i%100 == 0 {
					status(fmt.Sprintf("after %d puts", i+2))
				}
			}
			c.Put("a=2", "a=3")
			c.Delete("k001", "k002")
			status("after deletes")
			c.Compact(c.Rev(200), true)
			status("after a compaction")
			_, err := c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: zero, RangeEnd: zero})
			c.Must(err)
			status("after deleting all")
			c.Put("a=1")
			status("after one more")
		}},
		Case{Name: "snapshot is restored by etcdutl", Run: func(c *C) {
			churn(c)
			file := c.snapshotFile()
			defer os.RemoveAll(filepath.Dir(file))
			data := filepath.Join(filepath.Dir(file), "restored")
			_, err := etcdutl("snapshot", "restore", file, "--data-dir", data)
			c.Log("restored %v", err == nil)
			if out, err := etcdutl("hashkv", filepath.Join(data, "member", "snap", "db")); err == nil {
				c.Log("%s", strings.Split(out, ",")[0])
			}
		}, Own: true},
		Case{Name: "snapshot of several megabytes", Run: func(c *C) {
			value := bytes.Repeat(b("v"), 60000)
			for i := range 80 {
				_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: value})
				c.Must(err)
			}
			file := c.snapshotFile()
			defer os.RemoveAll(filepath.Dir(file))
			out, err := etcdutl("hashkv", file)
			c.Log("%v %s", err == nil, strings.Split(out, ",")[0])
		}, Own: true},
		Case{Name: "grpc health", Run: func(c *C) {
			health := healthpb.NewHealthClient(c.Conn)
			call(c, "check", health.Check, &healthpb.HealthCheckRequest{})
			call(c, "check", health.Check, &healthpb.HealthCheckRequest{Service: "etcdserverpb.KV"})
			p, err := health.List(c.Ctx, &healthpb.HealthListRequest{})
			if err != nil {
				c.Log("list: %s", harness.Error(err))
			} else {
				c.Log("list: %v", p.Statuses)
			}
			for _, name := range []string{"", "nobody"} {
				stream, err := health.Watch(c.Ctx, &healthpb.HealthCheckRequest{Service: name})
				c.Must(err)
				p, err := stream.Recv()
				c.Answer("watch", p, err)
			}
		}},
		Case{Name: "two calls at once on one connection", Run: func(c *C) {
			done := make(chan error, 50)
			for i := range 50 {
				go func() {
					_, err := c.KV.Put(c.Ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%10)},
						grpc.WaitForReady(true))
					done <- err
				}()
			}
			for range 50 {
				c.Must(<-done)
			}
			c.Range(all(&pb.RangeRequest{CountOnly: true}))
		}},
	)
}

// settle waits until a new member has decided the versions of cluster and storage, the last things
// that it does by itself. Real etcd may need four seconds for the second.
func (c *C) settle() {
	for {
		answer, err := http.Get(c.M.ClientURL() + "/version")
		c.Must(err)
		var version struct{ Etcdcluster string }
		err = json.NewDecoder(answer.Body).Decode(&version)
		answer.Body.Close()
		c.Must(err)
		status, err := c.Maint.Status(c.Ctx, &pb.StatusRequest{})
		c.Must(err)
		if version.Etcdcluster != "not_decided" && status.StorageVersion != "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// overQuota fills a small quota and shows what is refused until the alarm is taken back.
func overQuota(c *C) {
	value := bytes.Repeat(b("x"), 100000)
	var refused error
	for i := range 1000 {
		_, refused = c.KV.Put(c.Ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "k%02d", i), Value: value})
		if refused != nil {
			break
		}
	}
	c.Log("%s", harness.Error(refused))
	var alarms *pb.AlarmResponse
	var err error
	for alarms == nil || len(alarms.Alarms) == 0 { // a refusal at apply raises it only afterwards
		alarms, err = c.Maint.Alarm(c.Ctx, &pb.AlarmRequest{})
		c.Must(err) // the revision depends on when batches of the database were committed
	}
	c.Log("%d %s", len(alarms.Alarms), alarms.Alarms[0].Alarm)
	_, err = c.KV.Put(c.Ctx, &pb.PutRequest{Key: b("small")})
	c.Log("%s", harness.Error(err))
	_, err = c.KV.DeleteRange(c.Ctx, &pb.DeleteRangeRequest{Key: b("k"), RangeEnd: b("l")})
	c.Log("delete %s", harness.Error(err))
	if grpcCode(refused) != codes.ResourceExhausted {
		c.Fail("the quota was never reached")
	}
}
