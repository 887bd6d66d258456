package compat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// roundsMax bounds one step of a test over a million keys.
const roundsMax = 10 * time.Minute

// roundLease is a TTL that no test outlives.
const roundLease = 100_000

// fillRounds gives a member everything that a directory can hold but users: keys in bulk, binary ones,
// empty and large values, deep histories, deletions, leases with and without keys, a compaction.
func fillRounds(t *testing.T, m *harness.Member, r *rand.Rand, keys int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundsMax)
	defer cancel()
	client := m.Client()
	defer client.Close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v\n%s", m.Kind, err, m.LogTail(10))
		}
	}
	put := func(key, value string, options ...clientv3.OpOption) {
		t.Helper()
		_, err := client.Put(ctx, key, value, options...)
		check(err)
	}
	put("\x00", "") // lives for ever: without any key a hash depends on how far a compaction has come
	bulk(ctx, t, client, r.Int63(), keys)
	for n := range 40 {
		key := make([]byte, 1+r.Intn(40))
		r.Read(key)
		put("bin/\x00\xff"+string(key), string(key[:n%len(key)]))
	}
	for _, key := range []string{"\xff", "\xff\xff\x00", "\x00\x00", "a\x00", "a"} {
		put(key, "")
	}
	for n := range max(8, keys/20_000) {
		value := make([]byte, 64<<10+r.Intn(1_400_000-64<<10))
		r.Read(value)
		put(fmt.Sprint("big/", n), string(value))
	}
	var leases []clientv3.LeaseID
	for n := range max(20, keys/1000) {
		granted, err := client.Grant(ctx, int64(roundLease+n))
		check(err)
		leases = append(leases, granted.ID)
		for k := range n % 4 { // every fourth has no keys
			put(fmt.Sprintf("leased/%d/%d", n, k), "", clientv3.WithLease(granted.ID))
		}
	}
	put("leased/1/0", "detached")
	put("leased/2/0", "moved", clientv3.WithLease(leases[0]))
	_, err := client.Revoke(ctx, leases[5])
	check(err)
	revision := int64(0)
	for n := range max(150, keys/500) {
		put(fmt.Sprint("deep/", n%5), strings.Repeat("d", n%300))
		if n%17 == 3 {
			p, err := client.Delete(ctx, fmt.Sprint("deep/", n%5))
			check(err)
			revision = p.Header.Revision
		}
	}
	_, err = client.Compact(ctx, revision-int64(max(40, keys/2000)), clientv3.WithCompactPhysical())
	check(err)
	_, err = client.Delete(ctx, "bulk/1", clientv3.WithPrefix())
	check(err)
	touchRounds(t, m, r)
}

// bulk puts keys in transactions of many, by several clients' streams at once.
func bulk(ctx context.Context, t *testing.T, client *clientv3.Client, seed int64, keys int) {
	t.Helper()
	const workers, each = 8, 100
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			r := rand.New(rand.NewSource(seed + int64(worker)))
			for at := worker * each; at < keys; at += workers * each {
				var puts []clientv3.Op
				for n := at; n < min(at+each, keys); n++ {
					value := make([]byte, r.Intn(120))
					r.Read(value)
					puts = append(puts, clientv3.OpPut(fmt.Sprintf("bulk/%08d", n), string(value)))
				}
				if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// touchRounds changes a little of everything, so that each product writes where another one did.
func touchRounds(t *testing.T, m *harness.Member, r *rand.Rand) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundsMax)
	defer cancel()
	client := m.Client()
	defer client.Close()
	disarm(t, m)
	granted, err := client.Grant(ctx, roundLease+int64(r.Intn(1000)))
	for n := 0; n < 30 && err == nil; n++ {
		key := fmt.Sprintf("touch/%d", r.Intn(12))
		switch r.Intn(5) {
		case 0:
			_, err = client.Delete(ctx, key)
		case 1:
			_, err = client.Put(ctx, key, "", clientv3.WithLease(granted.ID))
		case 2:
			_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), ">", 0)).
				Then(clientv3.OpDelete(key), clientv3.OpPut(key+"/again", "x")).
				Else(clientv3.OpPut(key, "\x00\xff")).Commit()
		default:
			_, err = client.Put(ctx, key, strings.Repeat("t", r.Intn(3000)))
		}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", m.Kind, err, m.LogTail(10))
	}
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: uint64(1 + r.Intn(1000)),
		Alarm: pb.AlarmType_NOSPACE}
	if _, err := pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(ctx, alarm); err != nil {
		t.Fatal(err)
	}
}

// peopleRounds gives a member of etcd users and roles, with authentication turned on and off again, and
// a learner that was removed; also one that never comes: while it is awaited the versions of cluster
// and rows do not rise.
func peopleRounds(t *testing.T, m *harness.Member, awaits bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := m.Client()
	defer client.Close()
	steps := []func() error{
		func() error { _, err := client.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := client.RoleAdd(ctx, "root"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := client.UserAdd(ctx, "jürgen", "größe"); return err },
		func() error {
			_, err := client.UserAddWithOptions(ctx, "by certificate", "", &clientv3.UserAddOptions{NoPassword: true})
			return err
		},
		func() error { _, err := client.RoleAdd(ctx, "reader"); return err },
		func() error {
			_, err := client.RoleGrantPermission(ctx, "reader", "bin/\x00\xff", "bin/\xff",
				clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error {
			_, err := client.RoleGrantPermission(ctx, "reader", "\x00", "\x00",
				clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := client.UserGrantRole(ctx, "jürgen", "reader"); return err },
		func() error { _, err := client.AuthEnable(ctx); return err },
		func() error {
			root, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Endpoint()}, Username: "root",
				Password: "secret", DialTimeout: 10 * time.Second})
			if err == nil {
				defer root.Close()
				_, err = root.AuthDisable(ctx)
			}
			return err
		},
		func() error {
			p, err := client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"})
			if err == nil {
				_, err = client.MemberRemove(ctx, p.Member.ID)
			}
			return err
		},
	}
	if awaits {
		steps = append(steps, func() error {
			_, err := client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:2"})
			return err
		})
	}
	for at, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d of %s: %v\n%s", at, m.Kind, err, m.LogTail(10))
		}
	}
}

// pageKeys is how many keys one request of holdings asks for.
const pageKeys = 4000

// holdings describes all that a member holds, whatever its size: every key with its versions and its
// lease as a digest a page (single keys, while there are few), HashKV and the number of keys at so
// many revisions, leases, alarms, members; of members of etcd users and roles, too.
func holdings(t *testing.T, m *harness.Member, points int64) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), roundsMax)
	defer cancel()
	conn, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v\n%s", m.Kind, err, m.LogTail(20))
		}
	}
	kv, maint := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
	total, err := kv.Range(ctx, all(&pb.RangeRequest{CountOnly: true}))
	must(err)
	h := total.Header
	fmt.Fprintf(&out, "cluster %x member %x revision %d keys %d\n", h.ClusterId, h.MemberId, h.Revision, total.Count)
	for from, count := []byte{0}, int64(0); count < total.Count; {
		page, err := kv.Range(ctx, &pb.RangeRequest{Key: from, RangeEnd: zero, Limit: pageKeys, Revision: h.Revision})
		must(err)
		if len(page.Kvs) == 0 {
			t.Fatalf("%s ends after %d of %d keys", m.Kind, count, total.Count)
		}
		digest := sha256.New()
		for _, one := range page.Kvs {
			encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(one)
			must(err)
			digest.Write(encoded)
			if total.Count <= pageKeys {
				fmt.Fprintf(&out, "%.60q create %d mod %d version %d lease %x value %s\n", one.Key, one.CreateRevision,
					one.ModRevision, one.Version, one.Lease, harness.Bytes(one.Value))
			}
		}
		fmt.Fprintf(&out, "%d keys from %.60q: %x\n", len(page.Kvs), page.Kvs[0].Key, digest.Sum(nil))
		count += int64(len(page.Kvs))
		from = append(bytes.Clone(page.Kvs[len(page.Kvs)-1].Key), 0)
	}
	now, err := maint.HashKV(ctx, &pb.HashKVRequest{Revision: h.Revision})
	must(err)
	fmt.Fprintf(&out, "compacted %d\n", now.CompactRevision)
	span := h.Revision - now.CompactRevision
	for n := int64(1); n <= points; n++ {
		at := now.CompactRevision + max(1, span*n/points)
		hash, err := maint.HashKV(ctx, &pb.HashKVRequest{Revision: at})
		must(err)
		old, err := kv.Range(ctx, all(&pb.RangeRequest{Revision: at, CountOnly: true}))
		must(err)
		fmt.Fprintf(&out, "at %d: hash %d, %d keys\n", at, hash.Hash, old.Count)
	}
	leaseRounds(ctx, t, pb.NewLeaseClient(conn), &out)
	alarms, err := maint.Alarm(ctx, &pb.AlarmRequest{})
	must(err)
	for _, alarm := range alarms.Alarms {
		fmt.Fprintf(&out, "alarm %x %s\n", alarm.MemberID, alarm.Alarm)
	}
	members, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
	must(err)
	for _, one := range members.Members {
		fmt.Fprintf(&out, "member %x %q learner %v %v %v\n", one.ID, one.Name, one.IsLearner, one.PeerURLs, one.ClientURLs)
	}
	return out.String()
}

// leaseRounds lists the leases with what they were granted and their keys. What is left of a lease
// begins anew when the leader does.
func leaseRounds(ctx context.Context, t *testing.T, lease pb.LeaseClient, out *strings.Builder) {
	t.Helper()
	leases, err := lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	sort.Slice(leases.Leases, func(i, j int) bool { return leases.Leases[i].ID < leases.Leases[j].ID })
	for _, one := range leases.Leases {
		p, err := lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: one.ID, Keys: true})
		if err != nil {
			t.Fatal(err)
		}
		if p.TTL > p.GrantedTTL || p.TTL < p.GrantedTTL-int64(2*roundsMax/time.Second) {
			t.Errorf("lease %x of %d s has %d s left", p.ID, p.GrantedTTL, p.TTL)
		}
		slices.SortFunc(p.Keys, bytes.Compare)
		fmt.Fprintf(out, "lease %x of %d: %q\n", p.ID, p.GrantedTTL, p.Keys)
	}
}

// people asks a member of etcd for its users and roles.
func people(t *testing.T, m *harness.Member) string {
	t.Helper()
	client := m.Client()
	defer client.Close()
	var out strings.Builder
	users, err := client.UserList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range users.Users {
		user, err := client.UserGet(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "user %q: %q\n", name, user.Roles)
	}
	roles, err := client.RoleList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range roles.Roles {
		if name == "root" {
			continue // of which 3.6 tells what it may, and 3.5 nothing
		}
		role, err := client.RoleGet(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "role %q: %v\n", name, role.Perm)
	}
	status, err := client.AuthStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "enabled %v, revision %d\n", status.Enabled, status.AuthRevision)
	return out.String()
}

// keptBuckets are those whose rows nothing in these tests changes after the beginning.
var keptBuckets = []string{"auth", "authRoles", "authUsers", "members", "members_removed"}

// rows shows rows of a stopped member's database, byte by byte.
func rows(t *testing.T, m *harness.Member, buckets ...string) string {
	t.Helper()
	var out strings.Builder
	viewDB(t, m, func(tx *bolt.Tx) {
		for _, name := range buckets {
			bucket := tx.Bucket([]byte(name))
			if bucket == nil {
				fmt.Fprintf(&out, "no bucket %s\n", name)
				continue
			}
			_ = bucket.ForEach(func(key, value []byte) error {
				fmt.Fprintf(&out, "%s %q = %q\n", name, key, value)
				return nil
			})
		}
	})
	return out.String()
}

// viewDB reads a stopped member's database.
func viewDB(t *testing.T, m *harness.Member, read func(*bolt.Tx)) {
	t.Helper()
	db, err := bolt.Open(harness.DBFile(m.Dir), 0o600, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err == nil {
		err = db.View(func(tx *bolt.Tx) error { read(tx); return nil })
		db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// editDB changes a stopped member's database.
func editDB(t *testing.T, dir string, change func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(harness.DBFile(dir), 0o600, &bolt.Options{Timeout: 5 * time.Second, NoFreelistSync: true})
	if err == nil {
		err = db.Update(change)
		db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
