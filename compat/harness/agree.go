package harness

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// ReadMax bounds one reading of everything that a member has.
const ReadMax = 60 * time.Second

// Event is one change of a key.
type Event struct {
	Revision   int64
	Deleted    bool
	Key, Value string
	Lease      int64
	Version    int64
}

// Agree waits until all running members have applied the same, while nobody writes, and demands that
// they hold the same: HashKV at up to n revisions, keys, leases and members. It returns the revision.
func (c *Cluster) Agree(n int) int64 {
	c.t.Helper()
	revision := c.Settle()
	var first string
	for i, m := range c.Running() {
		text, err := m.describeState(revision, n)
		if err != nil {
			c.t.Fatalf("%s %s: %v\n%s", m.Name, m.Kind, err, m.LogTail(12))
		}
		if i == 0 {
			first = text
			continue
		}
		if text != first {
			c.t.Errorf("%s and %s (%s and %s) differ at revision %d:\n%s", c.Running()[0].Name, m.Name,
				c.Running()[0].Kind, m.Kind, revision, firstDifference(first, text))
		}
	}
	return revision
}

func firstDifference(a, b string) string {
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	var text strings.Builder
	shown := 0
	for i := range max(len(left), len(right)) {
		var l, r string
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		if l != r {
			fmt.Fprintf(&text, "< %.300s\n> %.300s\n", l, r)
			if shown++; shown == 8 {
				break
			}
		}
	}
	return text.String()
}

// describeState tells what one member holds, as of its own state.
func (m *Member) describeState(revision int64, n int) (string, error) {
	conn, err := m.shared()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), ReadMax)
	defer cancel()
	status, err := m.Status()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	kv, maint := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
	// Not HashKV(0): after a compaction at 0 etcd remembers a hash for it.
	hash, err := maint.HashKV(ctx, &pb.HashKVRequest{Revision: revision})
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&text, "revision %d compacted %d hash %d\n", revision, hash.CompactRevision, hash.Hash)
	// The hash of the compacted revision itself may be remembered from before.
	from := max(1, hash.CompactRevision+1)
	step := max(1, (revision-from)/int64(max(1, n)))
	for at := from; at < revision; at += step {
		if hash, err = maint.HashKV(ctx, &pb.HashKVRequest{Revision: at}); err != nil {
			return "", fmt.Errorf("HashKV at %d: %w", at, err)
		}
		fmt.Fprintf(&text, "hash at %d: %d\n", at, hash.Hash)
	}
	if status.IsLearner { // answers serializable reads alone
		return text.String(), nil
	}
	everything, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Serializable: true})
	if err != nil {
		return "", err
	}
	normal := &Normal{}
	for _, one := range everything.Kvs {
		fmt.Fprintln(&text, normal.Message(one))
	}
	return text.String(), m.describeRest(ctx, conn, &text)
}

// describeRest tells of leases, members and alarms.
func (m *Member) describeRest(ctx context.Context, conn *grpc.ClientConn, text *strings.Builder) error {
	leases, err := pb.NewLeaseClient(conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return err
	}
	var ids []int64
	for _, one := range leases.Leases {
		ids = append(ids, one.ID)
	}
	slices.Sort(ids)
	fmt.Fprintln(text, "leases", ids)
	members, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return err
	}
	sort.Slice(members.Members, func(i, j int) bool { return members.Members[i].ID < members.Members[j].ID })
	for _, one := range members.Members {
		fmt.Fprintln(text, (&Normal{}).Message(one))
	}
	alarms, err := pb.NewMaintenanceClient(conn).Alarm(ctx, &pb.AlarmRequest{})
	if err != nil {
		return err
	}
	for _, alarm := range alarms.Alarms {
		fmt.Fprintln(text, (&Normal{}).Message(alarm))
	}
	return nil
}

// History is every change that a member still knows, from the first revision that is not compacted
// up to a given one, as a watcher gets it.
func (m *Member) History(to int64) ([]Event, error) {
	conn, err := m.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return HistoryOver(conn, to)
}

// HistoryOver is History of the member at the other end of a connection.
func HistoryOver(conn *grpc.ClientConn, to int64) ([]Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ReadMax)
	defer cancel()
	hash, err := pb.NewMaintenanceClient(conn).HashKV(ctx, &pb.HashKVRequest{Revision: to})
	if err != nil {
		return nil, err
	}
	from := max(1, hash.CompactRevision+1)
	if to < max(2, from) { // revision 1 is the empty store
		return nil, nil
	}
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from}},
	}); err != nil {
		return nil, err
	}
	var events []Event
	for last := int64(0); last < to; {
		p, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("after %d events, at revision %d of %d: %w", len(events), last, to, err)
		}
		if p.Canceled {
			return nil, fmt.Errorf("the watch was cancelled: %s", p.CancelReason)
		}
		for i, e := range p.Events {
			if e.Kv.ModRevision < last || i == 0 && e.Kv.ModRevision == last {
				return nil, fmt.Errorf("revision %d came after %d", e.Kv.ModRevision, last)
			}
			if last = e.Kv.ModRevision; last <= to {
				events = append(events, Event{last, e.Type == mvccpb.DELETE, string(e.Kv.Key),
					string(e.Kv.Value), e.Kv.Lease, e.Kv.Version})
			}
		}
	}
	return events, nil
}

// SameHistory demands that all running members tell the same history up to a revision, and returns it.
func (c *Cluster) SameHistory(to int64) []Event {
	c.t.Helper()
	var first []Event
	for i, m := range c.Running() {
		if status, err := m.Status(); err == nil && status.IsLearner {
			continue
		}
		events, err := m.History(to)
		if err != nil {
			c.t.Fatalf("history of %s %s: %v", m.Name, m.Kind, err)
		}
		if i == 0 {
			first = events
			continue
		}
		if !slices.Equal(first, events) {
			at := 0
			for at < min(len(first), len(events)) && first[at] == events[at] {
				at++
			}
			c.t.Errorf("the histories of %s and %s (%s and %s) differ from event %d of %d and %d on:\n%s%s",
				c.Running()[0].Name, m.Name, c.Running()[0].Kind, m.Kind, at, len(first), len(events),
				some("<", first[at:]), some(">", events[at:]))
		}
	}
	return first
}

func some(mark string, events []Event) string {
	var text strings.Builder
	for _, e := range events[:min(4, len(events))] {
		fmt.Fprintf(&text, "%s %d %q=%.40q deleted %v lease %d\n", mark, e.Revision, e.Key, e.Value, e.Deleted, e.Lease)
	}
	return text.String()
}
