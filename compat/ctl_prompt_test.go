package compat

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"quorate/compat/harness"
)

// silent waits until the terminal does not show what is typed.
func (s terminal) silent() {
	s.t.Helper()
	tty := strings.TrimSpace(s.tmux("display-message", "-p", "#{pane_tty}"))
	eventually(s.t, "no echo on the terminal", func() bool {
		out, err := exec.Command("stty", "-F", tty, "-a").CombinedOutput()
		return err == nil && strings.Contains(string(out), "-echo ")
	})
}

// signal sends one to the command that the terminal's shell runs.
func (s terminal) signal(name string) {
	s.t.Helper()
	shell := strings.TrimSpace(s.tmux("display-message", "-p", "#{pane_pid}"))
	if out, err := exec.Command("pkill", "-"+name, "-P", shell).CombinedOutput(); err != nil {
		s.t.Fatalf("pkill -%s: %v %s", name, err, out)
	}
}

// TestCtlPromptSignals: a signal at the question for a password ends etcdctl and `quorate ctl` alike, and the
// terminal is as it was; after the answer signals do what they always did.
func TestCtlPromptSignals(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("needs tmux")
	}
	m := harness.Launch(t, harness.Ours)
	client := m.Client()
	t.Cleanup(func() { _ = client.Close() })
	run := func(line, signal string, answers bool) string {
		s := openTerminal(t, 200, line)
		defer s.tmux("kill-server")
		s.until("Password:")
		s.silent()
		if answers {
			s.tmux("send-keys", "secret", "Enter")
			eventually(t, "an event", func() bool {
				if _, err := client.Put(t.Context(), "k", "v"); err != nil {
					t.Error(err)
				}
				return strings.Contains(s.tmux("capture-pane", "-p"), "PUT")
			})
		}
		s.signal(signal)
		return s.end()
	}
	for _, test := range []struct{ command, signal, wanted string }{
		{"get k", "TERM", "Password: [exit 255]"},
		{"get k", "HUP", "Password: [exit 255]"},
		{"get k", "INT", "Password: [exit 255]"},
		{"get k", "QUIT", "Password: [exit 255]"},
		{"lock l", "TERM", "Password: [exit 255]"}, // it handles signals of its own
		{"watch k", "TERM", "[exit 143]"},
		{"watch k", "HUP", "[exit 129]"},
	} {
		for _, tool := range []string{tools.Etcdctl, tools.Ours + " ctl"} {
			line := fmt.Sprintf("%s --endpoints %s --user root %s", tool, m.Endpoint(), test.command)
			seen := run(line, test.signal, strings.HasPrefix(test.command, "watch"))
			if !strings.Contains(seen, test.wanted+"\nicanon\necho") {
				t.Errorf("%s by SIG%s: not %q and the terminal as it was:\n%s", line, test.signal, test.wanted, seen)
			}
		}
	}
}
