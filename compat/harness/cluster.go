package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// ElectionTimeout is what both products take when no flag says otherwise.
const ElectionTimeout = time.Second

// CallMax bounds one question to one member.
const CallMax = 2 * time.Second

// AgreeMax bounds how long members may take until all have applied the same.
const AgreeMax = 15 * time.Second

// Cluster is some members that know each other, of any mix of products.
type Cluster struct {
	Members []*Member // those that belong to it now, in the order in which they came
	Net     *Network  // between the peers, if the cluster has one
	Flags   []string  // of each member

	t    testing.TB
	dir  string
	next int
}

// NewCluster prepares members that are bootstrapped together; nothing runs yet. All end with the
// test; when the test failed, the ends of their logs are shown.
func NewCluster(t testing.TB, network bool, kinds []Kind, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, dir: t.TempDir(), Flags: flags}
	if network {
		c.Net = NewNetwork(1)
		t.Cleanup(c.Net.Close)
	}
	for _, kind := range kinds {
		c.Members = append(c.Members, c.prepare(kind))
	}
	initial := c.initial()
	for _, m := range c.Members {
		m.Initial = initial
	}
	return c
}

// LaunchCluster is NewCluster with a start.
func LaunchCluster(t testing.TB, network bool, kinds []Kind, flags ...string) *Cluster {
	t.Helper()
	c := NewCluster(t, network, kinds, flags...)
	c.Start(c.Members...)
	return c
}

func (c *Cluster) prepare(kind Kind) *Member {
	c.t.Helper()
	c.next++
	name := fmt.Sprintf("m%d", c.next)
	m := NewMember(kind, c.dir, c.Flags...)
	m.Name, m.Dir, m.logPath = name, filepath.Join(c.dir, name+".etcd"), filepath.Join(c.dir, name+".log")
	if c.Net != nil {
		if err := c.Net.Attach(m); err != nil {
			c.t.Fatal(err)
		}
	}
	c.t.Cleanup(func() {
		m.Kill()
		if c.t.Failed() {
			c.t.Logf("end of the log of %s, %s:\n%s", m.Name, m.Kind, m.LogTail(12))
		}
	})
	return m
}

func (c *Cluster) initial() string {
	var pairs []string
	for _, m := range c.Members {
		pairs = append(pairs, m.Name+"="+m.AdvertisedPeerURL())
	}
	return strings.Join(pairs, ",")
}

// Start starts members at once and waits until each answers.
func (c *Cluster) Start(members ...*Member) {
	c.t.Helper()
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.Start() })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			c.t.Fatalf("%s: %v", members[i].Name, err)
		}
	}
}

// Running lists the members whose process lives.
func (c *Cluster) Running() []*Member {
	var running []*Member
	for _, m := range c.Members {
		if m.Running() {
			running = append(running, m)
		}
	}
	return running
}

// Others lists the members but some.
func (c *Cluster) Others(but ...*Member) []*Member {
	return slices.DeleteFunc(slices.Clone(c.Members), func(m *Member) bool { return slices.Contains(but, m) })
}

// Endpoints lists the client endpoints of members.
func Endpoints(members []*Member) []string {
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.Endpoint())
	}
	return endpoints
}

// ClientOf opens a real etcd client on several members; it ends with the test.
func (c *Cluster) ClientOf(members ...*Member) *clientv3.Client {
	c.t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: Endpoints(members), DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
		BackoffWaitBetween: 5 * time.Millisecond,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

// Client opens a real etcd client on all running members.
func (c *Cluster) Client() *clientv3.Client { return c.ClientOf(c.Running()...) }

// Status asks one member about itself.
func (m *Member) Status() (*pb.StatusResponse, error) {
	if !m.Running() {
		return nil, fmt.Errorf("%s does not run", m.Name)
	}
	conn, err := m.shared()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), CallMax)
	defer cancel()
	return pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
}

// ID is the member's id, as it says itself.
func (m *Member) ID() (uint64, error) {
	status, err := m.Status()
	if err != nil {
		return 0, err
	}
	return status.Header.MemberId, nil
}

// MustID is ID of a member that runs.
func (c *Cluster) MustID(m *Member) uint64 {
	c.t.Helper()
	id, err := m.ID()
	if err != nil {
		c.t.Fatalf("%s: %v", m.Name, err)
	}
	return id
}

// FindLeader asks some members who leads, and returns the one that says it does in the newest term.
func FindLeader(members []*Member) *Member {
	var leader *Member
	var term uint64
	for _, m := range members {
		if status, err := m.Status(); err == nil && status.Leader != 0 &&
			status.Leader == status.Header.MemberId && status.RaftTerm > term {
			leader, term = m, status.RaftTerm
		}
	}
	return leader
}

// WaitLeader waits until one of the members says it leads.
func (c *Cluster) WaitLeader(members ...*Member) *Member {
	c.t.Helper()
	if len(members) == 0 {
		members = c.Running()
	}
	for deadline := time.Now().Add(AgreeMax); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if leader := FindLeader(members); leader != nil {
			return leader
		}
	}
	c.t.Fatalf("no leader in %s\n%s", AgreeMax, c.describe())
	return nil
}

// MoveLeader has etcdctl hand leadership to a member, and waits until it leads.
func (c *Cluster) MoveLeader(to *Member) {
	c.t.Helper()
	id := c.MustID(to)
	for deadline := time.Now().Add(AgreeMax); ; time.Sleep(50 * time.Millisecond) {
		leader := c.WaitLeader()
		if leader == to {
			return
		}
		_, err := leader.Etcdctl("move-leader", fmt.Sprintf("%x", id))
		if err == nil && FindLeader(c.Running()) == to {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s does not become leader: %v\n%s", to.Name, err, c.describe())
		}
	}
}

// describe says in a few lines how the members see themselves.
func (c *Cluster) describe() string {
	var text strings.Builder
	for _, m := range c.Members {
		status, err := m.Status()
		if err != nil {
			fmt.Fprintf(&text, "%s %s: %v\n", m.Name, m.Kind, err)
			continue
		}
		fmt.Fprintf(&text, "%s %s: id %x leader %x term %d index %d applied %d revision %d learner %v %v\n",
			m.Name, m.Kind, status.Header.MemberId, status.Leader, status.RaftTerm, status.RaftIndex,
			status.RaftAppliedIndex, status.Header.Revision, status.IsLearner, status.Errors)
	}
	return text.String()
}

// Settle waits until all running members have applied the same, while nobody writes, and returns
// the revision.
func (c *Cluster) Settle() int64 {
	c.t.Helper()
	var revision int64
	steady := 0
	for deadline := time.Now().Add(AgreeMax); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		applied, same := uint64(0), true
		ids, leader := map[uint64]bool{}, uint64(0)
		revision = 0
		for _, m := range c.Running() {
			status, err := m.Status()
			if err != nil || status.Leader == 0 {
				same = false
				break
			}
			if applied == 0 {
				applied, revision, leader = status.RaftAppliedIndex, status.Header.Revision, status.Leader
			}
			ids[status.Header.MemberId] = true
			same = same && status.RaftAppliedIndex == applied && status.Header.Revision == revision &&
				status.Leader == leader
		}
		// A leader that was removed or killed is named until the next election.
		if !same || !ids[leader] {
			steady = 0
			continue
		}
		if steady++; steady == 3 {
			return revision
		}
	}
	c.t.Errorf("the members do not agree after %s\n%s", AgreeMax, c.describe())
	if revision > 0 {
		c.SameHistory(revision) // shows where they part
	}
	c.t.FailNow()
	return 0
}

// Join adds a member to the running cluster, starts it and waits until it has caught up.
func (c *Cluster) Join(kind Kind, learner bool) *Member {
	c.t.Helper()
	m := c.prepare(kind)
	m.Existing = true
	add := func(ctx context.Context, client *clientv3.Client) error {
		var err error
		if learner {
			_, err = client.MemberAddAsLearner(ctx, []string{m.AdvertisedPeerURL()})
		} else {
			_, err = client.MemberAdd(ctx, []string{m.AdvertisedPeerURL()})
		}
		if err != nil && strings.Contains(err.Error(), "Peer URLs already exists") {
			return nil // the answer to an earlier attempt was lost
		}
		return err
	}
	c.Change(add)
	c.Members = append(c.Members, m)
	m.Initial = c.initial()
	if err := m.StartMember(learner); err != nil {
		c.t.Fatalf("%s: %v", m.Name, err)
	}
	return m
}

// Impostor is the only member of another cluster, at the peer address of this one.
func (m *Member) Impostor(dir string) *Member {
	other := m.Clone(m.Kind, filepath.Join(dir, "impostor.etcd"))
	other.clientPort, other.logPath = FreePort(), filepath.Join(dir, "log")
	other.Initial = m.Name + "=" + m.AdvertisedPeerURL()
	other.Flags = []string{"--initial-cluster-token=other"}
	return other
}

// StartMember starts a member that may be a learner, which answers no linearizable read.
func (m *Member) StartMember(learner bool) error {
	if !learner {
		return m.Start()
	}
	if err := m.Spawn(); err != nil {
		return err
	}
	for deadline := time.Now().Add(StartTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if status, err := m.Status(); err == nil && status.Leader != 0 {
			return nil
		}
		if !m.Running() {
			break
		}
	}
	return fmt.Errorf("%s did not start (%s)\n%s", m.Kind, m.ExitText(), m.LogTail(40))
}

// Promote makes a learner a voter as soon as it has caught up, and waits until it serves as one.
func (c *Cluster) Promote(m *Member) {
	c.t.Helper()
	id := c.MustID(m)
	c.Change(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberPromote(ctx, id)
		if err != nil && strings.Contains(err.Error(), "can only promote a learner member") &&
			!strings.Contains(err.Error(), "in sync") {
			return nil // the answer to an earlier attempt was lost
		}
		return err
	})
	c.WaitVoter(m)
}

// WaitVoter waits until a promoted member knows that it votes, and serves.
func (c *Cluster) WaitVoter(m *Member) {
	c.t.Helper()
	for deadline := time.Now().Add(AgreeMax); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if status, err := m.Status(); err == nil && !status.IsLearner {
			break
		}
	}
	if err := m.WaitReady(StartTimeout); err != nil {
		c.t.Fatalf("%s, promoted: %v\n%s", m.Kind, err, m.LogTail(20))
	}
}

// Remove takes a member out of the cluster; it ends by itself, or is killed if it ran not.
func (c *Cluster) Remove(m *Member) {
	c.t.Helper()
	id := c.MustID(m)
	others := c.Others(m)
	c.change(others, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberRemove(ctx, id)
		if err != nil && strings.Contains(err.Error(), "member not found") {
			return nil // the answer to an earlier attempt was lost
		}
		return err
	})
	c.Members = others
	select {
	case <-m.Exited():
	case <-time.After(StopTimeout):
		c.t.Errorf("%s (%s) was removed and runs on\n%s", m.Name, m.Kind, m.LogTail(12))
		m.Kill()
	}
}

// Change asks for a change of the membership until it is granted: it is refused while a new member
// is not yet connected, or while there is no leader.
func (c *Cluster) Change(ask func(context.Context, *clientv3.Client) error) {
	c.t.Helper()
	c.change(c.Running(), ask)
}

func (c *Cluster) change(members []*Member, ask func(context.Context, *clientv3.Client) error) {
	c.t.Helper()
	client := c.ClientOf(members...)
	defer client.Close()
	for deadline := time.Now().Add(AgreeMax); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := ask(ctx, client)
		cancel()
		if err == nil {
			return
		}
		if !passing(err) || time.Now().After(deadline) {
			c.t.Fatalf("changing the membership: %v\n%s", err, c.describe())
		}
	}
}

// passing says whether a refusal may end by itself.
func passing(err error) bool {
	for _, text := range []string{
		"unhealthy cluster", "in sync with leader", "request timed out", "leader changed", "no leader",
		"not enough started members", "connection refused", "transport is closing", "EOF",
		"deadline exceeded", "Unavailable", "DeadlineExceeded", "stopped", "connection reset",
	} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}
