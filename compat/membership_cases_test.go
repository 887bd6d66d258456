package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// sideBySideWith runs the same on three members of etcd and on a mix: both log the same.
func sideBySideWith(t *testing.T, m mix, run func(*testing.T, *caseLog, mix)) {
	said := [2][]string{}
	t.Run("side by side", func(t *testing.T) {
		for i, one := range []mix{"EEE", m} {
			t.Run(string(one), func(t *testing.T) {
				t.Parallel()
				l := &caseLog{}
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("so far:\n%s", joinLines(l.said))
					}
				})
				run(t, l, one)
				said[i] = l.said
			})
		}
	})
	theirs, ours := joinLines(said[0]), joinLines(said[1])
	if theirs != ours {
		t.Errorf("etcd and %s differ\n%s", m, sideBySide(theirs, ours))
	}
	t.Logf("%s", ours)
}

// caseLog is what a cluster has said.
type caseLog struct{ said []string }

func (l *caseLog) say(format string, args ...any) {
	l.said = append(l.said, fmt.Sprintf(format, args...))
}

// clusterMixes are compared with three members of etcd: all ours, and ours among theirs, so that
// either product leads in some run and follows in another.
var clusterMixes = []mix{"QQQ", "EQQ", "QEE"}

// roles names the members by what they do: the leader first.
func roles(c *harness.Cluster) (leader *harness.Member, followers []*harness.Member) {
	leader = c.WaitLeader()
	return leader, c.Others(leader)
}

// TestLeasesThroughFollowers renews and asks for leases through every member: only the leader knows,
// so the others ask it.
func TestLeasesThroughFollowers(t *testing.T) {
	t.Parallel()
	eachMix(t, func(t *testing.T, m mix) { sideBySideWith(t, m, leasesThroughFollowers) }, clusterMixes...)
}

func leasesThroughFollowers(t *testing.T, l *caseLog, m mix) {
	c := harness.LaunchCluster(t, false, m.kinds())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	leader, followers := roles(c)
	granted, err := c.ClientOf(followers[0]).Grant(ctx, 100)
	if err != nil {
		t.Fatal(err)
	}
	lease := granted.ID
	for _, key := range []string{"b", "a"} {
		if _, err := c.ClientOf(followers[1]).Put(ctx, key, "1", clientv3.WithLease(lease)); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(who string, m *harness.Member) {
		client := c.ClientOf(m)
		for _, id := range []clientv3.LeaseID{lease, 77} {
			name := map[bool]string{true: "the lease", false: "no lease"}[id == lease]
			alive, err := client.KeepAliveOnce(ctx, id)
			l.say("%s renews %s: %s", who, name, harness.Error(err))
			if err == nil {
				l.say("  for %d s, revision known: %t", alive.TTL, alive.ResponseHeader.Revision > 0)
			}
			for _, keys := range []bool{false, true} {
				var options []clientv3.LeaseOption
				if keys {
					options = append(options, clientv3.WithAttachedKeys())
				}
				left, err := client.TimeToLive(ctx, id, options...)
				if err != nil {
					l.say("%s asks for %s: %s", who, name, harness.Error(err))
					continue
				}
				slices.SortFunc(left.Keys, slices.Compare)
				l.say("%s asks for %s: nearly all is left: %t, granted %d, keys %q", who, name,
					left.TTL >= 90, left.GrantedTTL, left.Keys)
			}
		}
		leases, err := client.Leases(ctx)
		l.say("%s lists %d leases: %s", who, len(leases.Leases), harness.Error(err))
	}
	ask("the leader", leader)
	ask("a follower", followers[0])
	ask("the other follower", followers[1])

	short, err := c.ClientOf(followers[0]).Grant(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	// Renewed through a follower while the leader changes, it lives; then it ends.
	for range 2 {
		if _, err := c.ClientOf(followers[0]).KeepAliveOnce(ctx, short.ID); err != nil {
			l.say("renewing: %s", harness.Error(err))
		}
		c.MoveLeader(followers[1])
		time.Sleep(time.Second)
		c.MoveLeader(leader)
		time.Sleep(time.Second)
	}
	left, err := c.ClientOf(followers[1]).TimeToLive(ctx, short.ID)
	l.say("after transfers the short lease lives: %t, %s", left.TTL > 0, harness.Error(err))
	end := time.Now().Add(20 * time.Second)
	for time.Now().Before(end) {
		left, err = c.ClientOf(followers[0]).TimeToLive(ctx, short.ID)
		if err == nil && left.TTL < 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	l.say("then it ends: %t", left.TTL < 0)
}

// TestLeaderLost opens streams that want a leader and streams that do not, and takes the leader away:
// the former end after three election timeouts, the latter stay.
func TestLeaderLost(t *testing.T) {
	t.Parallel()
	eachMix(t, func(t *testing.T, m mix) { sideBySideWith(t, m, leaderLost) }, "QQQ", "QEE")
}

func leaderLost(t *testing.T, l *caseLog, m mix) {
	c := harness.LaunchCluster(t, false, m.kinds())
	// The one that stays is of the product in question.
	left := c.Members[0]
	gone := c.Others(left)
	conn, err := left.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	type end struct {
		what string
		err  error
		at   time.Time
	}
	ends := make(chan end, 4)
	for _, wants := range []bool{true, false} {
		ctx := ctx
		if wants {
			ctx = clientv3.WithRequireLeader(ctx)
		}
		what := map[bool]string{true: "that wants a leader", false: "that does not"}[wants]
		watch, renew, err := openStreams(ctx, conn)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := watch.Recv()
			ends <- end{"a watch " + what, err, time.Now()}
		}()
		go func() {
			_, err := renew.Recv()
			ends <- end{"a stream of keepalives " + what, err, time.Now()}
		}()
	}
	lost := time.Now()
	for _, m := range gone {
		m.Kill()
	}
	var ended []string
	deadline := time.After(10 * time.Second)
	for waiting := true; waiting; {
		select {
		case e := <-ends:
			// A follower notices after one to two timeouts, and polls three times after that.
			took := e.at.Sub(lost)
			in := took > 2*time.Second && took < 8*time.Second
			ended = append(ended, fmt.Sprintf("%s ends in its time (%t): %s", e.what, in, harness.Error(e.err)))
			if !in {
				t.Logf("%s ended after %s", e.what, took)
			}
		case <-deadline:
			waiting = false
		}
	}
	slices.Sort(ended)
	l.said = append(l.said, ended...)
	short, cancelShort := context.WithTimeout(ctx, 20*time.Second)
	defer cancelShort()
	for _, q := range []question{
		{"a get that wants a leader", requireLeader(getA(false))},
		{"a serializable get that wants a leader", requireLeader(getA(true))},
		{"a serializable get", getA(true)},
		{"a put that wants a leader", requireLeader(putA)},
		{"a watch that wants a leader", requireLeader(watchA)},
		{"a stream of keepalives that wants a leader", requireLeader(keepAlive)},
		{"a watch", watchA},
	} {
		l.say("%s: %s", q.what, harness.Error(q.call(short, conn)))
	}
}

// openStreams opens a watch that has begun and a stream of keepalives that has answered.
func openStreams(ctx context.Context, conn *grpc.ClientConn) (pb.Watch_WatchClient, pb.Lease_LeaseKeepAliveClient,
	error) {
	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, nil, err
	}
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: b("a")}}}
	if err := watch.Send(create); err != nil {
		return nil, nil, err
	}
	if _, err := watch.Recv(); err != nil {
		return nil, nil, err
	}
	renew, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := renew.Send(&pb.LeaseKeepAliveRequest{ID: 7}); err != nil {
		return nil, nil, err
	}
	_, err = renew.Recv()
	return watch, renew, err
}

// TestDowngradeTogether enables a downgrade through a follower, and takes it back.
func TestDowngradeTogether(t *testing.T) {
	t.Parallel()
	eachMix(t, func(t *testing.T, m mix) { sideBySideWith(t, m, downgradeTogether) }, clusterMixes...)
}

func downgradeTogether(t *testing.T, l *caseLog, m mix) {
	c := harness.LaunchCluster(t, false, m.kinds())
	leader, followers := roles(c)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := c.ClientOf(followers[0])
	all := append([]*harness.Member{leader}, followers...)
	waitStorage := func(version string) {
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			reached := 0
			for _, m := range all {
				if status, err := m.Status(); err == nil && status.StorageVersion == version {
					reached++
				}
			}
			if reached == len(all) {
				return
			}
		}
		t.Errorf("not all members get to storage version %s", version)
	}
	waitStorage("3.7.0")
	ask := func(action clientv3.DowngradeAction, version string) {
		name := []string{"?", "enable", "validate", "cancel"}[1+slices.Index([]clientv3.DowngradeAction{
			clientv3.DowngradeEnable, clientv3.DowngradeValidate, clientv3.DowngradeCancel}, action)]
		p, err := client.Downgrade(ctx, action, version)
		if err != nil {
			l.say("%s %s: %s", name, version, harness.Error(err))
			return
		}
		l.say("%s %s: version %s", name, version, p.Version)
	}
	show := func() {
		for i, m := range all {
			status, err := m.Status()
			if err != nil {
				t.Fatal(err)
			}
			l.say("member %d: storage %s, downgrade %t to %q, errors %v; %s", i, status.StorageVersion,
				status.DowngradeInfo.Enabled, status.DowngradeInfo.TargetVersion, status.Errors,
				httpAnswer(m.PeerURL()+"/downgrade/enabled"))
		}
	}
	show()
	for _, version := range []string{"3.6", "3.6.99", "3.5", "3.7", "3.8", "2.6", "x", "", "3.6.0.1", "3"} {
		ask(clientv3.DowngradeValidate, version)
	}
	ask(clientv3.DowngradeCancel, "")
	ask(clientv3.DowngradeEnable, "3.5")
	ask(clientv3.DowngradeEnable, "3.6.1")
	waitStorage("3.6.0")
	ask(clientv3.DowngradeValidate, "3.6")
	ask(clientv3.DowngradeValidate, "3.5")
	ask(clientv3.DowngradeEnable, "3.5")
	show()
	ask(clientv3.DowngradeCancel, "")
	waitStorage("3.7.0")
	show()
}

// TestPeerPort asks the peer ports of a leader and a follower what members ask there.
func TestPeerPort(t *testing.T) {
	t.Parallel()
	eachMix(t, func(t *testing.T, m mix) { sideBySideWith(t, m, peerPort) }, clusterMixes...)
}

func peerPort(t *testing.T, l *caseLog, m mix) {
	c := harness.LaunchCluster(t, false, m.kinds())
	leader, followers := roles(c)
	client := c.Client()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range 4 {
		if _, err := client.Put(ctx, "k", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Compact(ctx, 4, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	voter := c.MustID(followers[1])
	time.Sleep(200 * time.Millisecond) // followers remove what is compacted in their own time
	for i, m := range []*harness.Member{leader, followers[0]} {
		l.say("%s", []string{"the leader", "a follower"}[i])
		for _, path := range []string{"/leases", "/leases/internal", "/leases/x", "/members/", "/members/hashkv",
			"/members/hashkv/", "/members/promote/", "/members/promote/zz", "/members/promote/7",
			"/members/promote/+7", "/members/promote/18446744073709551616", "/downgrade", "/downgrade/enabled", "/"} {
			l.say("%s", peerAnswer(m, http.MethodGet, path, "", ""))
			if path != "/leases/internal" { // of an empty question etcd's handler dies
				l.say("%s", peerAnswer(m, http.MethodPost, path, "", ""))
			}
		}
		answer := peerAnswer(m, http.MethodPost, fmt.Sprintf("/members/promote/%d", voter), "", "")
		l.say("%s", strings.ReplaceAll(answer, fmt.Sprint(voter), "VOTER"))
		for _, body := range []string{"\x08\x4d", "\xff\xff", strings.Repeat("\x08\x4d", 40_000)} {
			l.say("%s", peerAnswer(m, http.MethodPost, "/leases", body, ""))
		}
		for _, body := range []string{"\x0a\x02\x08\x4d", "\x0a\x04\x08\x4d\x10\x01", "\xff"} {
			l.say("%s", peerAnswer(m, http.MethodPost, "/leases/internal", body, ""))
		}
		for _, body := range []string{"{}", "null", "[", "7", `{"revision":-1}`, `{"revision":3}`, `{"revision":4}`,
			`{"revision":5}`, `{"revision":99}`, `{"revision":"5"}`, `{"revision":1.5}`, `{"Revision":5,"x":{}}`} {
			l.say("%s", peerAnswer(m, http.MethodGet, "/members/hashkv", body, ""))
		}
		l.say("%s", peerAnswer(m, http.MethodGet, "/members/hashkv", "{}", "77"))
	}
}

// peerAnswer is a question to a peer port, and what came of it.
func peerAnswer(m *harness.Member, method, path, body, cluster string) string {
	request, err := http.NewRequest(method, m.PeerURL()+path, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	if cluster != "" {
		request.Header.Set("X-Etcd-Cluster-ID", cluster)
	}
	client := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	if len(body) > 20 {
		body = body[:20] + "..."
	}
	question := fmt.Sprintf("%s %s %q: ", method, path, body)
	response, err := client.Do(request)
	if err != nil {
		return question + err.Error()
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return question + err.Error()
	}
	return question + fmt.Sprintf("%d %q, type %q, allow %q, cluster told: %t", response.StatusCode, answer,
		response.Header.Get("Content-Type"), response.Header.Get("Allow"),
		response.Header.Get("X-Etcd-Cluster-Id") != "")
}

// TestCorruption changes a value in the database of one member behind its back. Each of etcd's three
// checks finds it, whoever leads and whoever is wrong.
func TestCorruption(t *testing.T) {
	t.Parallel()
	for _, check := range []string{"initial", "periodic", "compactions"} {
		t.Run(check, func(t *testing.T) {
			run := func(t *testing.T, l *caseLog, m mix) { corruption(t, l, m, check) }
			eachMix(t, func(t *testing.T, m mix) { sideBySideWith(t, m, run) }, clusterMixes...)
		})
	}
}

func corruption(t *testing.T, l *caseLog, m mix, check string) {
	flags := map[string][]string{
		"initial":     {"--feature-gates=InitialCorruptCheck=true"},
		"periodic":    {"--corrupt-check-time=1s"},
		"compactions": {"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"},
	}[check]
	c := harness.LaunchCluster(t, false, m.kinds(), flags...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	victim := c.Members[0]
	id := c.MustID(victim)
	for i := range 10 {
		if _, err := c.ClientOf(c.Members[1]).Put(ctx, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	c.Settle()
	if err := victim.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := changeValue(filepath.Join(victim.Dir, "member", "snap", "db")); err != nil {
		t.Fatal(err)
	}
	if check == "initial" {
		if err := victim.Spawn(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-victim.Exited():
		case <-time.After(20 * time.Second):
			t.Fatal("it starts with data that contradicts the others'")
		}
		l.say("exit code %d, found: %t", victim.ExitCode(),
			strings.Contains(victim.Log(), fmt.Sprintf("%x found data inconsistency with peers", id)))
		return
	}
	c.Start(victim)
	client := c.ClientOf(c.Members[1])
	if check == "compactions" {
		if _, err := client.Compact(ctx, 10); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		alarms, err := client.AlarmList(ctx)
		if err == nil && len(alarms.Alarms) > 0 {
			time.Sleep(2 * time.Second) // for others that may follow
			break
		}
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, alarm := range alarms.Alarms {
		l.say("%s of the right member: %t", alarm.Alarm, alarm.MemberID == id)
	}
	_, err = client.Put(ctx, "k", "v")
	l.say("put: %s", harness.Error(err))
	_, err = client.Get(ctx, "k1")
	l.say("get: %s", harness.Error(err))
	for _, m := range c.Members {
		status, err := m.Status()
		if err != nil {
			t.Fatal(err)
		}
		errs := strings.Join(status.Errors, "; ")
		l.say("status: %s", regexp.MustCompile(` +`).ReplaceAllString(strings.ReplaceAll(errs, fmt.Sprint(id), "ID"), " "))
		l.say("/health: %s", httpAnswer(m.ClientURL()+"/health"))
	}
}

// changeValue gives another value to one of the keys, of the same length.
func changeValue(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("key"))
		cursor := bucket.Cursor()
		for key, row := cursor.First(); key != nil; key, row = cursor.Next() {
			pair := &mvccpb.KeyValue{}
			if err := proto.Unmarshal(row, pair); err != nil {
				return err
			}
			if string(pair.Key) != "k3" {
				continue
			}
			pair.Value = []byte("x")
			row, err := proto.Marshal(pair)
			if err != nil {
				return err
			}
			return bucket.Put(slices.Clone(key), row)
		}
		return errors.New("the key is not there")
	})
}
