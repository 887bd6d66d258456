package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// Tools holds the paths of the binaries under test.
type Tools struct {
	Etcd    string // real etcd, built from the pinned module
	Etcdctl string
	Etcdutl string
	Ours    string // the binary compared with it
}

var tools = sync.OnceValues(loadTools)

// LoadTools builds the real binaries once and finds ours. A missing binary is an error, never a
// reason to skip: a comparison that did not run must not look like one that passed.
func LoadTools() (*Tools, error) { return tools() }

// Root is the directory of this Go module.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		panic("no caller information")
	}
	return filepath.Dir(filepath.Dir(file))
}

func loadTools() (*Tools, error) {
	bin := filepath.Join(Root(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-o", bin+string(filepath.Separator),
		"./cmd/etcd", "./cmd/etcdctl", "go.etcd.io/etcd/etcdutl/v3")
	build.Dir = Root()
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building real etcd: %w\n%s", err, out)
	}
	t := &Tools{
		Etcd:    filepath.Join(bin, "etcd"),
		Etcdctl: filepath.Join(bin, "etcdctl"),
		Etcdutl: filepath.Join(bin, "etcdutl"),
		Ours:    os.Getenv("QUORATE_BIN"),
	}
	if t.Ours == "" {
		t.Ours = filepath.Join(Root(), "..", "target", "release", "quorate")
	}
	if _, err := os.Stat(t.Ours); err != nil {
		return nil, errors.Join(
			errors.New("build it first (cargo build --release) or name it in QUORATE_BIN"), err)
	}
	return t, nil
}

// older builds the tools of an older release once, from a module of its own: two releases of one
// module cannot be in one build.
func older(release, module string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		bin := filepath.Join(Root(), "bin", release)
		if err := os.MkdirAll(bin, 0o755); err != nil {
			return "", err
		}
		build := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "./cmd/...")
		build.Dir = filepath.Join(Root(), module)
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building etcd %s: %w\n%s", release, err, out)
		}
		return filepath.Join(bin, "etcd"), nil
	})
}

var etcd36, etcd35 = older("3.6", "etcd36"), older("3.5", "etcd35")

// Etcd36 builds etcd, etcdctl and etcdutl of the newest 3.6 release once, and returns etcd's path.
func Etcd36() (string, error) { return etcd36() }

// Etcd35 does the same with the newest 3.5 release.
func Etcd35() (string, error) { return etcd35() }

// Etcdctl runs the real etcdctl against a member.
func (m *Member) Etcdctl(args ...string) (string, error) {
	t, err := LoadTools()
	if err != nil {
		return "", err
	}
	args = append([]string{"--endpoints=" + m.Endpoint()}, args...)
	cmd := exec.Command(t.Etcdctl, args...)
	cmd.Env = CleanEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("etcdctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
