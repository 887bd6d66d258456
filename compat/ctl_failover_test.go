package compat

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate/compat/harness"
)

// lasting is a command that goes on while members come and go.
type lasting struct {
	cmd   *exec.Cmd
	lines chan string
}

func lastingRun(t *testing.T, tool []string, args ...string) *lasting {
	t.Helper()
	f := &lasting{lines: make(chan string, 1000)}
	f.cmd = exec.Command(tool[0], append(slices.Clone(tool[1:]), args...)...)
	f.cmd.Env = harness.CleanEnv()
	pipe, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.cmd.Process.Kill() })
	go func() {
		defer close(f.lines)
		for scanner := bufio.NewScanner(pipe); scanner.Scan(); {
			f.lines <- scanner.Text()
		}
	}()
	return f
}

// until reads lines up to one that contains this.
func (f *lasting) until(t *testing.T, wanted string) []string {
	t.Helper()
	var seen []string
	for deadline := time.After(20 * time.Second); ; {
		select {
		case line, ok := <-f.lines:
			if !ok {
				t.Fatalf("%v ended before %q: %q", f.cmd.Args, wanted, seen)
			}
			if seen = append(seen, line); strings.Contains(line, wanted) {
				return seen
			}
		case <-deadline:
			t.Fatalf("%v did not print %q: %q", f.cmd.Args, wanted, seen)
		}
	}
}

// TestCtlFailover runs etcdctl and `quorate ctl` with endpoints of which some are dead, or die: short
// commands do not notice, a watch misses nothing, a lease is kept.
func TestCtlFailover(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	c := harness.LaunchCluster(t, false, []harness.Kind{harness.Real, harness.Ours, harness.Ours})
	dead := fmt.Sprint("127.0.0.1:", harness.FreePort())
	all := dead + "," + strings.Join(harness.Endpoints(c.Members), ",")
	two := strings.Join(harness.Endpoints(c.Members[:2]), ",") // between which the long commands move
	both := map[string][]string{"etcdctl": {tools.Etcdctl}, "quorate": {tools.Ours, "ctl"}}

	run := func(name string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		tool := both[name]
		cmd := exec.CommandContext(ctx, tool[0], append(slices.Clone(tool[1:]), args...)...)
		cmd.Env = harness.CleanEnv()
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s %v: %v %s", name, args, err, out)
		}
		return string(out)
	}
	watches, leases := map[string]*lasting{}, map[string]*lasting{}
	ids := map[string]string{}
	for name, tool := range both {
		found := granted.FindStringSubmatch(run(name, "--endpoints", all, "lease", "grant", "9"))
		if found == nil {
			t.Fatal(name, "was granted no lease")
		}
		ids[name] = found[1]
		leases[name] = lastingRun(t, tool, "--endpoints", two, "lease", "keep-alive", found[1])
		watches[name] = lastingRun(t, tool, "--endpoints", two, "watch", "step", "--prefix", "--rev", "1")
	}
	step := 0
	put := func() {
		t.Helper()
		for name := range both {
			step++
			key, value := fmt.Sprintf("step%03d", step), fmt.Sprintf("value%03d", step)
			if out := run(name, "--endpoints", all, "put", key, value); out != "OK\n" {
				t.Errorf("%s put: %q", name, out)
			}
			if out := run(name, "--endpoints", all, "get", key, "--print-value-only"); out != value+"\n" {
				t.Errorf("%s get: %q", name, out)
			}
		}
		for _, watch := range watches {
			got := strings.Join(watch.until(t, fmt.Sprintf("value%03d", step)), " ")
			for n := step - 1; n <= step; n++ {
				if one := fmt.Sprintf("PUT step%03d value%03d", n, n); strings.Count(got, one) != 1 {
					t.Errorf("%v printed %q", watch.cmd.Args, got)
				}
			}
		}
	}
	put()
	for _, m := range c.Members[:2] {
		m.Kill()
		c.WaitLeader(c.Others(m)...) // until then a put ends with etcd's error
		put()
		put()
		// The members that are asked one by one, of which one is dead.
		var told []string
		for name, tool := range both {
			s := &shell{tool: tool, m: c.Members[2], dir: t.TempDir()}
			text := s.run(t.Context(), command{args: []string{"endpoint", "status", "--cluster",
				"--command-timeout", "1s", "--endpoints", all}})
			text = regexp.MustCompile(`(true|false), (true|false), T`).ReplaceAllString(text, "LEADER, $2, T")
			for i, one := range c.Members {
				text = strings.ReplaceAll(text, one.Endpoint(), fmt.Sprint("MEMBER", i))
			}
			told = append(told, text)
			if !strings.Contains(text, "Failed to get the status of endpoint http://MEMBER") {
				t.Errorf("%s: %s", name, text)
			}
		}
		if told[0] != told[1] {
			t.Errorf("one member of three is dead:\n%s\n%s", told[0], told[1])
		}
		harness.MustStart(t, m)
	}
	put()
	for name, keeper := range leases {
		for len(keeper.lines) > 0 {
			<-keeper.lines
		}
		keeper.until(t, "keepalived with TTL(9)")
		out := run(name, "--endpoints", all, "lease", "timetolive", ids[name])
		if !strings.Contains(out, "remaining(") {
			t.Errorf("%s did not keep its lease: %s", filepath.Base(both[name][0]), out)
		}
	}
	if !t.Failed() {
		t.Logf("evidence: %d puts and gets by etcdctl and by quorate ctl succeed with a dead endpoint while "+
			"the members of two others die in turn; watches print each once, leases are kept", 2*step)
	}
}
