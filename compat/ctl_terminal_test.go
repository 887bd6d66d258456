package compat

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"quorate/compat/harness"
)

// terminal is a screen of tmux in which one command runs.
type terminal struct {
	t      *testing.T
	socket string
}

func (s terminal) tmux(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", s.socket, "-f", "/dev/null"}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// until waits for a text on the screen, and returns all of it, with colours if there are any.
func (s terminal) until(wanted string) string {
	s.t.Helper()
	for range 200 {
		if seen := s.tmux("capture-pane", "-p", "-e"); strings.Contains(seen, wanted) {
			return strings.TrimRight(seen, "\n ")
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("no %q on the screen:\n%s", wanted, s.tmux("capture-pane", "-p"))
	return ""
}

// openTerminal runs a command on a screen, and then shows how it has ended and how it left the terminal.
func openTerminal(t *testing.T, columns int, line string) terminal {
	t.Helper()
	s := terminal{t, filepath.Join(t.TempDir(), "tmux")}
	s.tmux("new-session", "-d", "-x", fmt.Sprint(columns), "-y", "60",
		line+"; echo \"[exit $?]\"; stty -a | grep -ow -e '-\\?echo' -e '-\\?icanon'; exec sleep 60")
	return s
}

// end waits for the end of the command, and returns the last screen.
func (s terminal) end() string {
	s.t.Helper()
	s.until("[exit ")
	return s.until("echo")
}

// onTerminal runs a command as a user would who answers each text of `talk` by the keys behind it.
func onTerminal(t *testing.T, columns int, line string, talk ...[2]string) string {
	t.Helper()
	s := openTerminal(t, columns, line)
	defer s.tmux("kill-server")
	for _, one := range talk {
		s.until(one[0])
		s.tmux(append([]string{"send-keys", "--"}, strings.Fields(one[1])...)...)
	}
	return s.end()
}

// TestCtlTerminal compares what etcdctl and `quorate ctl` show on a terminal: tables on a narrow and
// on a wide one, prompts, passwords.
func TestCtlTerminal(t *testing.T) {
	t.Parallel()
	if realTwice() {
		t.Skip("needs quorate's own ctl")
	}
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("needs tmux")
	}
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	m := harness.Launch(t, harness.Ours)
	if out, err := m.Etcdctl("put", "k", "v"); err != nil {
		t.Fatal(err, out)
	}
	compared := 0
	for _, test := range []struct {
		line string
		talk [][2]string
	}{
		{line: "member list -w table"},
		{line: "endpoint status -w table"},
		{line: "endpoint health -w table"},
		{line: "endpoint hashkv -w table"},
		{line: "get --help"},
		{line: "nosuch"},
		{line: "txn -i", talk: [][2]string{{"compares:", "val(\"k\")Space=Space\"v\" Enter Enter"},
			{"success requests", "getSpacek Enter Enter"}, {"failure requests", "Enter"}}},
		{line: "watch -i", talk: [][2]string{{"", "watchSpacekSpace--revSpace1 Enter"},
			{"PUT", "nonsense Enter"}, {"only support", "progress Enter"}, {"notify", "C-d"}}},
		{line: "put k", talk: [][2]string{{"", "v Enter C-d"}}},
		{line: "--user root get k", talk: [][2]string{{"Password:", "secret BSpace Enter"}}},
		{line: "--user root get k", talk: [][2]string{{"Password:", "secr C-c"}}},
	} {
		for _, columns := range []int{80, 200} {
			var seen [2]string
			for i, tool := range []string{tools.Etcdctl, tools.Ours + " ctl"} {
				var talk [][2]string
				for _, one := range test.talk {
					talk = append(talk, [2]string{one[0], strings.ReplaceAll(one[1], "Space", " Space ")})
				}
				line := fmt.Sprintf("%s --endpoints %s %s", tool, m.Endpoint(), test.line)
				seen[i] = shown(onTerminal(t, columns, line, talk...))
			}
			compared++
			if seen[0] != seen[1] {
				t.Errorf("%s at %d columns\netcdctl:\n%s\nquorate ctl:\n%s", test.line, columns, seen[0], seen[1])
			}
			if strings.Contains(seen[0]+seen[1], "\x1b") || strings.Contains(seen[1], "secr") {
				t.Errorf("%s: colours or a password are shown:\n%s", test.line, seen[1])
			}
		}
	}
	if !t.Failed() {
		t.Logf("evidence: %d screens of tables and prompts are the same by etcdctl and by quorate ctl", compared)
	}
}

var duration = regexp.MustCompile(`[0-9.]+(ns|µs|ms|s) +`)

// shown is a screen without what differs by time; a table keeps its width as far as times allow.
func shown(text string) string {
	// A line of the client's log fills several of the screen.
	text = regexp.MustCompile(`(?s)\{"level":"warn".*?"\}\n`).ReplaceAllString(text, "")
	if strings.Contains(text, "TOOK") {
		text = regexp.MustCompile(` *TOOK *|─+`).ReplaceAllString(text, "")
	}
	text = duration.ReplaceAllString(text, "TIME ")
	return regexp.MustCompile(` +(\n|$)`).ReplaceAllString(text, "$1")
}
