package compat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate/compat/harness"
)

// smallDisk mounts a tmpfs, or skips where that is not permitted.
func smallDisk(t *testing.T, megabytes int) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skipf("mounting a tmpfs is not permitted here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk fills the disk under a member: it must say so and stop, or refuse with NOSPACE; with
// space again, everything acknowledged is there. Real etcd is measured beside ours for the log.
func TestFullDisk(t *testing.T) {
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		t.Run(kind.String(), func(t *testing.T) { fullDisk(t, kind) })
	}
}

func fullDisk(t *testing.T, kind harness.Kind) {
	m := harness.Prepare(t, kind)
	disk := smallDisk(t, 200)
	t.Cleanup(m.Kill)
	m.Dir = filepath.Join(disk, "member.etcd")
	harness.MustStart(t, m)
	client := m.Client()
	defer client.Close()
	l := &ledger{last: map[string]ack{}, trying: map[string]string{}}
	put := func(i int) error {
		key, value := fmt.Sprintf("w/%d", i), fmt.Sprintf("%d-%s", i, strings.Repeat("x", 100_000))
		l.attempt(key, value)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		p, err := client.Put(ctx, key, value)
		if err == nil {
			l.acknowledge(ack{key, value, p.Header.Revision})
		}
		return err
	}
	for i := range 20 {
		if err := put(i); err != nil {
			t.Fatal(err)
		}
	}
	ballast := filepath.Join(disk, "ballast")
	file, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<16)
	for err == nil {
		_, err = file.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	file.Close()
	var refused error
	for i := 20; i < 2000 && refused == nil && m.Running(); i++ {
		refused = put(i)
	}
	if refused == nil {
		t.Fatalf("2000 writes of 100 kB fitted on a full disk")
	}
	t.Logf("after %d writes: %s", l.count.Load(), harness.Error(refused))
	select {
	case <-m.Exited():
		said := ""
		for _, line := range splitLines(m.LastLog()) {
			if strings.Contains(line, "no space left on device") || strings.Contains(line, "No space left") {
				said = line
			}
		}
		t.Logf("%s ended (%s): %s", kind, m.ExitText(), said)
		if kind == harness.Ours {
			refusal(t, m, "no space")
		}
	case <-time.After(5 * time.Second):
		if !strings.Contains(refused.Error(), "database space exceeded") {
			t.Errorf("%s goes on after %v\n%s", kind, refused, m.LogTail(10))
		}
		m.Kill()
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	harness.MustStart(t, m)
	l.check(t, m)
}
