package compat

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// again sends a signal every now and then until the tool ends, as a user would who does not want to wait.
func (h *held) again(signal syscall.Signal) (int, string) {
	h.t.Helper()
	for range 20 {
		_ = h.cmd.Process.Signal(signal)
		select {
		case <-h.ended:
			return h.wait()
		case <-time.After(700 * time.Millisecond):
		}
	}
	h.t.Fatalf("%v does not end", h.cmd.Args)
	return 0, ""
}

// paused runs something while a member hears nobody.
func paused(t *testing.T, m *harness.Member, do func()) {
	t.Helper()
	if err := syscall.Kill(m.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(m.Pid(), syscall.SIGCONT) }()
	do()
}

// TestCtlSignals: a lock, an election and a check end by signals whatever the member does, and leave
// nothing behind where it answers.
func TestCtlSignals(t *testing.T) {
	t.Parallel()
	tools, _ := ctlTools(t)
	ours := tools["quorate ctl"]
	m := harness.Launch(t, harness.Ours)
	client := m.Client()
	t.Cleanup(func() { _ = client.Close() })

	for _, test := range []struct {
		args   []string
		prefix string
		lines  int
	}{
		{[]string{"lock", "l", "--ttl", "600"}, "l/", 1},
		{[]string{"elect", "e", "one"}, "e/", 1},
		{[]string{"lock", "x", "--ttl", "600", "--", "sh", "-c", "echo in; sleep 3"}, "x/", 1},
	} {
		holder := startTool(t, ours, m, test.args...)
		for range test.lines {
			holder.line()
		}
		waiter := startTool(t, ours, m, test.args...)
		eventually(t, "two in line", func() bool { return count(client, test.prefix) == 2 })
		paused(t, m, func() {
			for _, h := range []*held{waiter, holder} {
				if code, said := h.again(syscall.SIGINT); code != 1 || said != "Error: context canceled" {
					t.Errorf("%v: exit %d, %s", h.cmd.Args, code, said)
				}
			}
		})
		if _, err := client.Delete(t.Context(), test.prefix, clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
	}

	// An answer that cannot be printed ends the command, and the lock is free.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for prefix, args := range map[string][]string{"l/": {"lock", "l"}, "e/": {"elect", "e", "one"}} {
		cmd := exec.Command(ours[0], append(append(slices.Clone(ours[1:]), "--endpoints", m.Endpoint()), args...)...)
		cmd.Env, cmd.Stdout = harness.CleanEnv(), full
		if err := cmd.Run(); err == nil || count(client, prefix) != 0 {
			t.Errorf("%v: %v, and %d keys are left", args, err, count(client, prefix))
		}
	}

	for _, args := range [][]string{{"check", "perf"}, {"check", "datascale"}} {
		prefix := "/etcdctl-" + strings.Join(args, "-") + "/"
		busy := func() *held {
			h := startTool(t, ours, m, args...)
			eventually(t, "keys", func() bool { return count(client, prefix) > 0 })
			return h
		}
		// A part of the load has a verdict, and a part of the keys has none.
		wanted := []int{0, 1}
		if args[1] == "datascale" {
			wanted = []int{130}
		}
		if code, said := busy().stop(syscall.SIGINT); !slices.Contains(wanted, code) || count(client, prefix) != 0 {
			t.Errorf("%v: exit %d, %d keys are left\n%s", args, code, count(client, prefix), said)
		}
		h := busy()
		paused(t, m, func() {
			if code, said := h.again(syscall.SIGINT); code != 130 {
				t.Errorf("%v without its member: exit %d, %s", args, code, said)
			}
		})
		if _, err := client.Delete(t.Context(), prefix, clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCtlOutage: who waits in line or keeps a lease as a user outlives a member that is away for longer than
// a login may take.
func TestCtlOutage(t *testing.T) {
	t.Parallel()
	tools, _ := ctlTools(t)
	ours := tools["quorate ctl"]
	m := harness.Launch(t, harness.Real)
	client := m.Client()
	granted, err := client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	protect(t, client)
	_ = client.Close()
	user := func(args ...string) *held {
		return startTool(t, append(slices.Clone(ours), "--user", "root:secret"), m, args...)
	}
	lease := user("lease", "keep-alive", fmt.Sprintf("%x", granted.ID))
	lease.line()
	holder := user("lock", "l", "--ttl", "60")
	holder.line()
	waiter := user("lock", "l", "--ttl", "60")
	time.Sleep(time.Second)
	waiter.quiet()
	m.Kill()
	time.Sleep(4 * time.Second)
	if err := m.Spawn(); err != nil {
		t.Fatal(err)
	}
	if code, said := holder.stop(syscall.SIGINT); code != 0 || said != "" {
		t.Errorf("the holder: exit %d, %s", code, said)
	}
	if key := waiter.line(); !strings.HasPrefix(key, "l/") {
		t.Errorf("the waiter prints %q", key)
	}
	if line := lease.line(); !strings.Contains(line, "keepalived with TTL(60)") {
		t.Errorf("the lease: %q", line)
	}
}

// TestCtlCause: who reaches nobody is told why, once.
func TestCtlCause(t *testing.T) {
	t.Parallel()
	tools, _ := ctlTools(t)
	ours := tools["quorate ctl"]
	for _, args := range [][]string{
		{"get", "k", "--command-timeout", "300ms"},
		{"endpoint", "health", "--command-timeout", "300ms"},
		{"get", "k", "--command-timeout", "1s", "--dial-timeout", "10ms"},
	} {
		cmd := exec.Command(ours[0], append(append(slices.Clone(ours[1:]), "--endpoints", "127.0.0.1:1"), args...)...)
		cmd.Env = harness.CleanEnv()
		out, _ := cmd.CombinedOutput()
		if n := strings.Count(string(out), `"endpoint":"127.0.0.1:1","error":"connection refused"}`); n != 1 {
			t.Errorf("%v: the cause is told %d times\n%s", args, n, out)
		}
	}
}
