package harness

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// Launch starts a fresh member that ends with the test; when the test failed, the end of the
// member's log is shown.
func Launch(t testing.TB, kind Kind, flags ...string) *Member {
	t.Helper()
	m := Prepare(t, kind, flags...)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	return m
}

// Prepare is Launch without the start.
func Prepare(t testing.TB, kind Kind, flags ...string) *Member {
	t.Helper()
	m := NewMember(kind, t.TempDir(), flags...)
	t.Cleanup(func() { Cleanup(t, m) })
	return m
}

// Cleanup kills what still runs and shows its log when the test failed.
func Cleanup(t testing.TB, m *Member) {
	t.Helper()
	m.Kill()
	if t.Failed() {
		t.Logf("end of the log of %s:\n%s", m.Kind, m.LogTail(15))
	}
}

// MustStart starts a prepared member.
func MustStart(t testing.TB, m *Member) {
	t.Helper()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
}

// MustStop stops a member gracefully.
func MustStop(t testing.TB, m *Member) {
	t.Helper()
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
}

// CopyDir copies a directory tree, holes and modes kept.
func CopyDir(t testing.TB, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		t.Fatalf("copying %s: %v\n%s", from, err, out)
	}
}

// EnvInt reads a number from the environment.
func EnvInt(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
