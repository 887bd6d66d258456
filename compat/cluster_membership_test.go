package compat

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"quorate/compat/harness"
)

// TestMembershipChanges changes the membership at random, again and again, under load: members of each
// product of the mix come as voters and as learners, move to other addresses, are killed, and go, the
// leader among them.
func TestMembershipChanges(t *testing.T) {
	t.Parallel()
	changes := harness.EnvInt(t, "COMPAT_CHANGES", 6)
	eachMix(t, func(t *testing.T, m mix) { membershipChanges(t, m, changes) }, "QQE")
}

func membershipChanges(t *testing.T, m mix, changes int) {
	seed := seedOf(t)
	r := rand.New(rand.NewSource(seed))
	flags := []string{"--snapshot-count=300", "--snapshot-catchup-entries=50"}
	if changes < 10 { // it demands five quiet seconds before a member comes
		flags = append(flags, "--strict-reconfig-check=false")
	}
	c := harness.LaunchCluster(t, true, m.kinds(), flags...)
	l := startPatientLoad(t, c, 4, seed, time.Minute)
	done, kinds := map[string]int{}, m.kinds()
	for change := range changes {
		progress(t, l, 50)
		// When the last member of 3.6 has gone, the version of the cluster rises, and none can come.
		if !slices.ContainsFunc(c.Members, func(m *harness.Member) bool { return m.Kind == harness.Real36 }) {
			kinds = slices.DeleteFunc(kinds, func(kind harness.Kind) bool { return kind == harness.Real36 })
		}
		what := changeMembership(t, c, r, kinds[r.Intn(len(kinds))])
		done[what]++
		t.Logf("%d: %s", change, what)
		if t.Failed() {
			t.FailNow()
		}
	}
	progress(t, l, 50)
	finish(t, c, l, 100)
	t.Logf("evidence: %s: %d random changes under load, seed %d: %v", m, changes, seed, done)
	restartAll(t, c)
}

// changeMembership makes one random change and says which.
func changeMembership(t *testing.T, c *harness.Cluster, r *rand.Rand, kind harness.Kind) string {
	t.Helper()
	some := c.Members[r.Intn(len(c.Members))]
	n := r.Intn(100)
	switch {
	case len(c.Members) > 4 || len(c.Members) > 3 && n < 40:
		if r.Intn(3) == 0 {
			some = c.WaitLeader()
			c.Remove(some)
			return "the leader is removed"
		}
		c.Remove(some)
		return "a member is removed"
	case n < 55:
		c.Join(kind, false)
		return "a voter joins"
	case n < 75:
		c.Promote(c.Join(kind, true))
		return "a learner joins and is promoted"
	case n < 82:
		c.Remove(c.Join(kind, true))
		return "a learner joins and is removed"
	case n < 92:
		id := c.MustID(some)
		if err := c.Net.Attach(some); err != nil {
			t.Fatal(err)
		}
		c.Change(func(ctx context.Context, client *clientv3.Client) error {
			_, err := client.MemberUpdate(ctx, id, []string{some.Advertise})
			return err
		})
		return "a member gets another address"
	default:
		some.Kill()
		c.Start(some)
		return "a member is killed and starts"
	}
}

// TestMembershipRefusals asks for changes that must be refused, of real etcd and of each mix: code and
// text of every answer are the same.
func TestMembershipRefusals(t *testing.T) {
	t.Parallel()
	eachMix(t, func(t *testing.T, m mix) {
		said := [2][]string{}
		t.Run("side by side", func(t *testing.T) {
			for i, one := range []mix{"EEE", m} {
				t.Run(string(one), func(t *testing.T) {
					t.Parallel()
					said[i] = refusals(t, one)
				})
			}
		})
		theirs, ours := joinLines(said[0]), joinLines(said[1])
		if theirs != ours {
			t.Errorf("etcd and %s refuse differently\n%s", m, sideBySide(theirs, ours))
		}
		t.Logf("%s", ours)
	}, "QQQ")
}

// refusals logs what a cluster answers.
func refusals(t *testing.T, m mix) []string {
	c := harness.LaunchCluster(t, false, m.kinds())
	r := &refuser{t: t, c: c, leader: c.WaitLeader()}
	r.follower = c.Others(r.leader)[0]
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("so far:\n%s", joinLines(r.said))
		}
	})
	r.wrongChanges()
	r.learner()
	r.fewMembers()
	return r.said
}

// refuser asks and logs.
type refuser struct {
	t                *testing.T
	c                *harness.Cluster
	leader, follower *harness.Member
	said             []string
}

// An rpc goes to one member, without the help of the Go client, which checks some things itself and
// repeats some calls.
type rpc func(context.Context, *grpc.ClientConn) error

// ask logs what comes of calls through a member; they are made at once, as some wait for long.
func (r *refuser) ask(m *harness.Member, questions ...question) {
	r.t.Helper()
	conn, err := m.Dial()
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	said := make([]string, len(questions))
	var wg sync.WaitGroup
	for i, q := range questions {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			said[i] = q.what + ": " + harness.Error(q.call(ctx, conn))
		})
	}
	wg.Wait()
	r.said = append(r.said, said...)
}

// askInTurn is ask, one call after another.
func (r *refuser) askInTurn(m *harness.Member, questions ...question) {
	r.t.Helper()
	for _, q := range questions {
		r.ask(m, q)
	}
}

type question struct {
	what string
	call rpc
}

func add(urls ...string) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewClusterClient(conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls})
		return err
	}
}

func addLearner(urls ...string) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewClusterClient(conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: true})
		return err
	}
}

func remove(id uint64) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewClusterClient(conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		return err
	}
}

func update(id uint64, urls ...string) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewClusterClient(conn).MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
		return err
	}
}

func promote(id uint64) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewClusterClient(conn).MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
		return err
	}
}

func moveLeader(id uint64) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewMaintenanceClient(conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: id})
		return err
	}
}

func listMembers(linearizable bool) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
		return err
	}
}

func putA(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: b("a"), Value: b("1")})
	return err
}

func getA(serializable bool) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: b("a"), Serializable: serializable})
		return err
	}
}

func txnA(serializable bool) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewKVClient(conn).Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
			rangeOp(&pb.RangeRequest{Key: b("a"), Serializable: serializable})}})
		return err
	}
}

func watchA(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: b("a")}}})
	_, err = stream.Recv()
	return err
}

func keepAlive(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: 7})
	_, err = stream.Recv()
	return err
}

func requireLeader(one rpc) rpc {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		return one(clientv3.WithRequireLeader(ctx), conn)
	}
}

func (r *refuser) wrongChanges() {
	leader, follower := r.c.MustID(r.leader), r.c.MustID(r.follower)
	there := r.follower.PeerURL()
	for _, through := range []*harness.Member{r.leader, r.follower} {
		r.said = append(r.said, map[bool]string{true: "through the leader", false: "through a follower"}[through == r.leader])
		r.waitConnected(through)
		r.askInTurn(through,
			question{"add an address that is there", add(there)},
			question{"add one that is there and a new one", add("http://127.0.0.1:9", there)},
			question{"add the same address twice", add(there, there)},
			question{"add a learner at an address that is there", addLearner(there)},
			question{"add without address", add()},
			question{"add an empty address", add("")},
			question{"add no URL", add("127.0.0.1:9")},
			question{"add a URL with a path", add("http://127.0.0.1:9/path")},
			question{"add a URL without port", add("http://127.0.0.1")},
			question{"add another scheme", add("ftp://127.0.0.1:9")},
			question{"remove nobody", remove(0)},
			question{"remove a stranger", remove(77)},
			question{"update a stranger", update(77, "http://127.0.0.1:9")},
			question{"update to another's address", update(follower, r.leader.PeerURL())},
			question{"promote a stranger", promote(77)},
			question{"promote a voter", promote(follower)},
			question{"give leadership to a stranger", moveLeader(77)},
			question{"give leadership to nobody", moveLeader(0)},
			question{"give leadership to who has it", moveLeader(leader)},
		)
	}
}

// waitConnected waits until a member has been connected to the others for as long as it must be
// before it lets others join.
func (r *refuser) waitConnected(m *harness.Member) {
	r.t.Helper()
	conn, err := m.Dial()
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	for deadline := time.Now().Add(harness.AgreeMax); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = add(m.PeerURL())(ctx, conn)
		cancel()
		if err != nil && !strings.Contains(err.Error(), "unhealthy") {
			return
		}
	}
	r.t.Fatalf("%s does not find the cluster healthy: %v", m.Name, err)
}

// learner asks for what no learner may do, before and after it has started.
func (r *refuser) learner() {
	t, c := r.t, r.c
	m := c.Join(r.leader.Kind, true)
	id := c.MustID(m)
	r.waitConnected(r.leader)
	r.askInTurn(r.leader,
		question{"add a second learner", addLearner("http://127.0.0.1:9")},
		question{"give leadership to a learner", moveLeader(id)},
	)
	r.said = append(r.said, "asked of a learner")
	kv := func(run func(context.Context, pb.KVClient) error) rpc {
		return func(ctx context.Context, conn *grpc.ClientConn) error { return run(ctx, pb.NewKVClient(conn)) }
	}
	lease := func(run func(context.Context, pb.LeaseClient) error) rpc {
		return func(ctx context.Context, conn *grpc.ClientConn) error { return run(ctx, pb.NewLeaseClient(conn)) }
	}
	maintenance := func(run func(context.Context, pb.MaintenanceClient) error) rpc {
		return func(ctx context.Context, conn *grpc.ClientConn) error {
			return run(ctx, pb.NewMaintenanceClient(conn))
		}
	}
	r.askInTurn(m,
		question{"put", putA},
		question{"get", getA(false)},
		question{"serializable get", getA(true)},
		question{"txn", txnA(false)},
		question{"serializable txn", txnA(true)},
		question{"delete", kv(func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: b("a")})
			return err
		})},
		question{"compact", kv(func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1})
			return err
		})},
		question{"grant", lease(func(ctx context.Context, lease pb.LeaseClient) error {
			_, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 10})
			return err
		})},
		question{"leases", lease(func(ctx context.Context, lease pb.LeaseClient) error {
			_, err := lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
			return err
		})},
		question{"time to live", lease(func(ctx context.Context, lease pb.LeaseClient) error {
			_, err := lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
			return err
		})},
		question{"keep alive", keepAlive},
		question{"watch", watchA},
		question{"list members", listMembers(true)},
		question{"list members, serializable", listMembers(false)},
		question{"add a member", add("http://127.0.0.1:9")},
		question{"status", maintenance(func(ctx context.Context, maintenance pb.MaintenanceClient) error {
			_, err := maintenance.Status(ctx, &pb.StatusRequest{})
			return err
		})},
		question{"hash", maintenance(func(ctx context.Context, maintenance pb.MaintenanceClient) error {
			_, err := maintenance.HashKV(ctx, &pb.HashKVRequest{})
			return err
		})},
		question{"alarms", maintenance(func(ctx context.Context, maintenance pb.MaintenanceClient) error {
			_, err := maintenance.Alarm(ctx, &pb.AlarmRequest{})
			return err
		})},
		question{"defragment", maintenance(func(ctx context.Context, maintenance pb.MaintenanceClient) error {
			_, err := maintenance.Defragment(ctx, &pb.DefragmentRequest{})
			return err
		})},
		question{"snapshot", maintenance(func(ctx context.Context, maintenance pb.MaintenanceClient) error {
			stream, err := maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		})},
		question{"downgrade", maintenance(func(ctx context.Context, maintenance pb.MaintenanceClient) error {
			_, err := maintenance.Downgrade(ctx, &pb.DowngradeRequest{Version: "3.6.0"})
			return err
		})},
		question{"user list", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := pb.NewAuthClient(conn).UserList(ctx, &pb.AuthUserListRequest{})
			return err
		}},
		question{"move leader", moveLeader(id)},
	)
	c.Promote(m)
	r.askInTurn(r.leader, question{"promote it again", promote(id)})
	c.Remove(m)
	r.askInTurn(r.leader,
		question{"remove it again", remove(id)},
		question{"update who was removed", update(id, "http://127.0.0.1:9")},
		question{"promote who was removed", promote(id)},
	)
	url := "http://127.0.0.1:9" // of a learner that never starts
	var silent uint64
	c.Change(func(ctx context.Context, client *clientv3.Client) error {
		p, err := client.MemberAddAsLearner(ctx, []string{url})
		if err == nil {
			silent = p.Member.ID
		}
		return err
	})
	r.askInTurn(r.leader, question{"promote a learner that never started", promote(silent)})
	r.askInTurn(r.follower, question{"promote it through a follower", promote(silent)})
	r.waitConnected(r.leader)
	// An id is made of the address and the second: in the same one it is the id that is there already.
	time.Sleep(time.Second)
	r.askInTurn(r.leader,
		question{"add its address again", add(url)},
		question{"add a voter beside it", add("http://127.0.0.1:10")},
		question{"remove it", remove(silent)},
	)
	if t.Failed() {
		t.FailNow()
	}
}

// fewMembers asks while one and while two of three are gone.
func (r *refuser) fewMembers() {
	c := r.c
	gone := r.follower
	leaderID := c.MustID(r.leader)
	last := c.Others(r.leader, gone)[0]
	lastID := c.MustID(last)
	c.MoveLeader(r.leader)
	gone.Kill()
	r.said = append(r.said, "one of three is gone")
	r.waitUnhealthy()
	r.ask(r.leader,
		question{"add a voter", add("http://127.0.0.1:9")},
		question{"add a learner", addLearner("http://127.0.0.1:9")},
		question{"remove one that is there", remove(lastID)},
	)
	last.Kill()
	r.said = append(r.said, "two of three are gone")
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if status, err := r.leader.Status(); err == nil && status.Leader == 0 {
			slices.Sort(status.Errors)
			r.said = append(r.said, "status: "+joinLines(status.Errors))
			break
		}
	}
	for _, path := range []string{"/health", "/health?serializable=true", "/livez", "/readyz"} {
		code, body, _ := strings.Cut(httpAnswer(r.leader.ClientURL()+path), " ")
		lines := strings.Split(body, "\n")
		slices.Sort(lines) // etcd tells its checks in random order
		r.said = append(r.said, path+" "+code+" "+joinLines(lines))
	}
	r.ask(r.leader,
		question{"put", putA},
		question{"get", getA(false)},
		question{"serializable get", getA(true)},
		question{"txn", txnA(false)},
		question{"serializable txn", txnA(true)},
		question{"put that requires a leader", requireLeader(putA)},
		question{"serializable get that requires a leader", requireLeader(getA(true))},
		question{"watch that requires a leader", requireLeader(watchA)},
		question{"watch", watchA},
		question{"keep a lease alive", keepAlive},
		question{"list members", listMembers(true)},
		question{"list members, serializable", listMembers(false)},
		question{"give leadership away", moveLeader(lastID)},
		question{"remove one", remove(leaderID)},
		question{"add one", add("http://127.0.0.1:9")},
	)
	c.Start(gone, last)
	c.Agree(5)
}

// waitUnhealthy waits until the leader has noticed that somebody is gone.
func (r *refuser) waitUnhealthy() {
	r.t.Helper()
	conn, err := r.leader.Dial()
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	for deadline := time.Now().Add(harness.AgreeMax); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = add(r.leader.PeerURL())(ctx, conn)
		cancel()
		if err != nil && strings.Contains(err.Error(), "unhealthy") {
			return
		}
	}
	r.t.Fatalf("the leader finds the cluster healthy: %v", err)
}

// httpAnswer is the status and the body of a GET.
func httpAnswer(url string) string {
	client := http.Client{Timeout: 20 * time.Second}
	p, err := client.Get(url)
	if err != nil {
		return "no answer"
	}
	defer p.Body.Close()
	body, _ := io.ReadAll(p.Body)
	return fmt.Sprintf("%d %s", p.StatusCode, body)
}

// TestMembershipChangesInARow changes the membership as fast as a client can, through the leader and
// through a follower: a change that comes while the one before it is not applied must not be lost. One
// of ours leads, as a leader of etcd loses such a change: who proposed it waits in vain.
func TestMembershipChangesInARow(t *testing.T) {
	t.Parallel()
	changes := harness.EnvInt(t, "COMPAT_CHANGES_IN_A_ROW", 100)
	eachMix(t, func(t *testing.T, m mix) {
		c := harness.LaunchCluster(t, false, m.kinds(), "--strict-reconfig-check=false")
		leader := c.Members[slices.Index(m.kinds(), harness.Ours)]
		c.MoveLeader(leader)
		for _, through := range []*harness.Member{leader, c.Others(leader)[0]} {
			conn, err := through.Dial()
			if err != nil {
				t.Fatal(err)
			}
			for i := range changes {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				err := update(77, "http://127.0.0.1:9")(ctx, conn)
				cancel()
				if err == nil || !strings.Contains(err.Error(), "member not found") {
					t.Fatalf("change %d through %s: %v\n%s", i, through.Name, err, through.LogTail(10))
				}
			}
		}
	}, "QQQ")
}
