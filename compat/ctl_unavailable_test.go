package compat

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"quorate/compat/harness"
)

// unavailable stands before a member, refuses the first requests of a kind, and hands on the others.
type unavailable struct {
	address string
	member  *grpc.ClientConn

	mu      sync.Mutex
	refuses int // how many more it refuses
	refusal error
	seen    []string
}

// plain leaves messages as they are.
type plain struct{}

func (plain) Name() string { return "proto" }
func (plain) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}
func (plain) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func startUnavailable(t *testing.T, m *harness.Member) *unavailable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &unavailable{
		address: listener.Addr().String(),
		refusal: status.Error(codes.Unavailable, "etcdserver: request timed out"),
	}
	u.member, err = grpc.NewClient("passthrough:///"+strings.TrimPrefix(m.Endpoint(), "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(plain{})))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(plain{}), grpc.UnknownServiceHandler(u.handle))
	go server.Serve(listener)
	t.Cleanup(func() { server.Stop(); _ = u.member.Close() })
	return u
}

func (u *unavailable) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	u.mu.Lock()
	u.seen = append(u.seen, method[strings.LastIndex(method, "/")+1:])
	u.refuses--
	refuse, refusal := u.refuses >= 0, u.refusal
	u.mu.Unlock()
	if refuse {
		return refusal
	}
	var request, answer []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	asked, _ := metadata.FromIncomingContext(stream.Context())
	ctx := metadata.NewOutgoingContext(stream.Context(), asked)
	if err := u.member.Invoke(ctx, method, &request, &answer); err != nil {
		return err
	}
	return stream.SendMsg(&answer)
}

// expect begins another round, and returns what the last one saw.
func (u *unavailable) expect(refuses int) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen, u.refuses = nil, refuses
	return seen
}

// ask runs a command against it, and says how that ended and which requests it took.
func (u *unavailable) ask(t *testing.T, refuses int, tool []string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool[0], append(slices.Clone(tool[1:]), args...)...)
	cmd.Args = append(cmd.Args, "--endpoints", u.address)
	cmd.Env = harness.CleanEnv()
	u.expect(refuses)
	out, _ := cmd.CombinedOutput()
	seen := strings.Join(u.expect(0), " ")
	if refuses == always {
		seen = repeated.ReplaceAllString(seen, "$1 again and again")
	}
	text := logLine.ReplaceAllString(string(out), "")
	text = tookTime.ReplaceAllString(idOfLease.ReplaceAllString(text, "ID"), "took TIME.")
	return fmt.Sprintf("exit %d after %s: %s", cmd.ProcessState.ExitCode(), seen, text)
}

const always = 1 << 30

var (
	logLine   = regexp.MustCompile(`(?m)^\{"level".*\n`)
	idOfLease = regexp.MustCompile(`[0-9a-f]{16}`)
	tookTime  = regexp.MustCompile(`took [0-9.]+(µs|ms|s)\.`)
	repeated  = regexp.MustCompile(`^(\w+)( \w+){3,}$`)
)

// TestCtlUnavailable: to a member that answers that it is unavailable, etcdctl and `quorate ctl` send the same
// requests again: what reads, and what may be done twice. What writes is sent once.
func TestCtlUnavailable(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	m := harness.Launch(t, harness.Real)
	u := startUnavailable(t, m)
	client := m.Client()
	defer client.Close()
	compared := 0
	compare := func(line string, refuses int, flags ...string) {
		t.Helper()
		var told [2]string
		for i, tool := range [][]string{{tools.Etcdctl}, {tools.Ours, "ctl"}} {
			lease, err := client.Grant(t.Context(), 60)
			if err != nil {
				t.Fatal(err)
			}
			args := strings.Fields(strings.ReplaceAll(line, "ID", fmt.Sprintf("%x", lease.ID)))
			told[i] = u.ask(t, refuses, tool, append(args, flags...)...)
			if _, err := client.Revoke(t.Context(), lease.ID); (err == nil) == strings.Contains(told[i], " revoked") {
				t.Errorf("%s: the lease is revoked: %v\n%s", line, err, told[i])
			}
		}
		if compared++; told[0] != told[1] {
			t.Errorf("%s, refused %d times\netcdctl:     %s\nquorate ctl: %s", line, refuses, told[0], told[1])
		}
	}
	for _, line := range []string{
		"get k", "put k v", "del k", "compaction 1",
		"lease grant 60", "lease revoke ID", "lease timetolive ID", "lease list",
		"member list", "member update 1 --peer-urls=http://127.0.0.1:1", "member promote 1", "member remove 1",
		"alarm list", "alarm disarm", "endpoint hashkv", "defrag", "move-leader 1", "downgrade validate 3.6",
		"auth status", "auth disable", "user list", "user get u", "user delete u", "user grant-role u r",
		"user revoke-role u r", "role list", "role get r", "role add r", "role delete r",
	} {
		compare(line, 2)
	}
	for _, line := range []string{
		"get k", "put k v", "lease grant 60", "lease revoke ID", "member list", "alarm list", "auth status",
	} {
		compare(line, always, "--command-timeout", "400ms")
	}
	// What a member of etcd says that finds no leader. etcdctl then sends even a put again, of which nobody knows
	// whether it was done; ours does not.
	u.refusal = status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	for _, line := range []string{"get k", "lease grant 60", "lease revoke ID", "member list", "alarm list", "role list"} {
		compare(line, 2)
	}
	compare("get k", always, "--command-timeout", "400ms")
	if told := u.ask(t, 2, []string{tools.Ours, "ctl"}, "put", "k", "v"); !strings.HasPrefix(told, "exit 1 after Put: ") {
		t.Errorf("a put of which nobody knows whether it was done: %s", told)
	}
	if p, err := client.Get(t.Context(), "k"); err != nil || len(p.Kvs) > 0 {
		t.Errorf("a refused put was sent again: %v %v", p, err)
	}
	if !t.Failed() {
		t.Logf("evidence: %d commands send the same requests to a member that is unavailable, and end alike", compared)
	}
}
