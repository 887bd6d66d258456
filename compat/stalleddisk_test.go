package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quorate/compat/harness"
)

// stallShim makes syncs wait for as long as a file exists.
const stallShim = `
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
static void wait_for_disk(void) {
	const char *file = getenv("STALL_FILE");
	while (file && access(file, F_OK) == 0) usleep(10000);
}
int fdatasync(int fd) { wait_for_disk(); return syscall(SYS_fdatasync, fd); }
int fsync(int fd) { wait_for_disk(); return syscall(SYS_fsync, fd); }
`

// TestStalledDisk lets the disk of a member stop answering: writes wait, reads are answered, and
// health says so until the disk is back.
func TestStalledDisk(t *testing.T) {
	dir := t.TempDir()
	source, shim, stall := filepath.Join(dir, "stall.c"), filepath.Join(dir, "stall.so"), filepath.Join(dir, "stall")
	if err := os.WriteFile(source, []byte(stallShim), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", shim, source).CombinedOutput(); err != nil {
		t.Skipf("no C compiler: %v\n%s", err, out)
	}
	m := harness.Prepare(t, harness.Ours)
	m.Env = append(m.Env, "LD_PRELOAD="+shim, "STALL_FILE="+stall)
	harness.MustStart(t, m)
	client := m.Client()
	t.Cleanup(func() { client.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := client.Put(ctx, "before", "1"); err != nil {
		t.Fatal(err)
	}
	well := func() {
		t.Helper()
		for _, path := range []string{"/health", "/readyz", "/readyz/disk"} {
			if one := ask("GET", m.ClientURL()+path); !strings.HasPrefix(one.status, "200") {
				t.Errorf("%s: %s %q", path, one.head(), one.body)
			}
		}
	}
	well()
	if err := os.WriteFile(stall, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = client.Put(ctx, "meanwhile", "2") // answered, or too late
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if one := ask("GET", m.ClientURL()+"/health"); strings.HasPrefix(one.status, "503") {
			if string(one.body) != `{"health":"false","reason":"DISK STALLED"}`+"\n" {
				t.Errorf("/health: %q", one.body)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the member says that it is well")
		}
	}
	for path, want := range map[string]string{
		"/readyz":              "503 [-]disk failed: a write has been under way for ",
		"/readyz/disk":         "503 [-]disk failed: a write has been under way for ",
		"/readyz?exclude=disk": "200 ok",
		"/livez":               "200 ok",
		// A reader of what is there feels nothing.
		"/health?serializable=true": `200 {"health":"true"`,
	} {
		one := ask("GET", m.ClientURL()+path)
		status, line, _ := strings.Cut(want, " ")
		if !strings.HasPrefix(one.status, status) || !strings.Contains(string(one.body), line) {
			t.Errorf("%s: %s %q", path, one.head(), one.body)
		}
	}
	if err := os.Remove(stall); err != nil {
		t.Fatal(err)
	}
	<-done
	if _, err := client.Put(ctx, "after", "3"); err != nil {
		t.Fatal(err)
	}
	well()
}
