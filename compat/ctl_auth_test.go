package compat

import (
	"path/filepath"
	"strings"
	"testing"

	"quorate/compat/harness"
)

// TestCtlAuth runs the commands about users, of which our server knows nothing yet: each tool has a
// real etcd for itself.
func TestCtlAuth(t *testing.T) {
	t.Parallel()
	ctlPair(t, "ctl-auth.txt", harness.Real, harness.Real)
}

// TestCtlShell runs what a shell asks, and defragmentation, each tool against its own product.
func TestCtlShell(t *testing.T) {
	t.Parallel()
	ctlPair(t, "ctl-shell.txt", harness.Real, harness.Ours)
}

// ctlPair runs a corpus by the real etcdctl and by ours. Lines that end in raw messages are left
// out: ids in them cannot be masked.
func ctlPair(t *testing.T, name string, kinds ...harness.Kind) {
	t.Helper()
	if realTwice() {
		t.Skip("needs quorate's own ctl")
	}
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name)
	// Passwords are hashed as cheaply as can be: it is not the hash that is looked at.
	theirs := newShell(t, harness.Launch(t, kinds[0], "--bcrypt-cost=4"), tools.Etcdctl)
	ours := newShell(t, harness.Launch(t, kinds[1], "--bcrypt-cost=4"), tools.Ours, "ctl")
	commands := parseCorpus(t, file)
	seen := func(s *shell) []string {
		var list []string
		for _, c := range commands {
			list = append(list, withoutStty(s.run(t.Context(), c)))
		}
		return list
	}
	done := make(chan []string)
	go func() { done <- seen(ours) }()
	expected := seen(theirs)
	for i, out := range <-done {
		c := commands[i]
		if out != expected[i] && !contains(c.args, "protobuf") {
			t.Errorf("%s:%d: %s\netcdctl:\n%squorate ctl:\n%s", file, c.line, c.text, expected[i], out)
		}
	}
	if !t.Failed() {
		t.Logf("evidence: %d lines of %s print the same", len(commands), name)
	}
}

// withoutStty leaves out what etcdctl's helper says where there is no terminal.
func withoutStty(text string) string {
	var kept []string
	for _, line := range splitLines(text) {
		if !strings.Contains(line, "2> stty: ") {
			kept = append(kept, line)
		}
	}
	return joinLines(kept)
}
