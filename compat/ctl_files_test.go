package compat

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"quorate/compat/harness"
)

// TestCtlSnapshotPart: one run at a time writes a snapshot's file, which is nobody else's to read.
func TestCtlSnapshotPart(t *testing.T) {
	tools, _ := ctlTools(t)
	ours := tools["quorate ctl"]
	m := harness.Launch(t, harness.Ours)
	dir := t.TempDir()
	file := filepath.Join(dir, "s.db")
	part := file + ".part"
	command := func(endpoint, file string) *exec.Cmd {
		cmd := exec.Command(ours[0], append(slices.Clone(ours[1:]), "--endpoints", endpoint, "snapshot", "save", file)...)
		cmd.Env = harness.CleanEnv()
		return cmd
	}
	save := func(file string) (int, string) {
		cmd := command(m.Endpoint(), file)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		_ = cmd.Run()
		text := strings.TrimSpace(errs.String())
		return cmd.ProcessState.ExitCode(), text[strings.LastIndexByte(text, '\n')+1:]
	}
	// A member that says nothing keeps the first run waiting.
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	first := command(door.Addr().String(), file)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	exists := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	eventually(t, "the first run writes", func() bool { return exists(part) })
	code, last := save(file)
	if want := "Error: could not open " + part + ": another snapshot is being saved there"; code != 5 || last != want {
		t.Errorf("a second run: exit %d, %s", code, last)
	}
	if !exists(part) || exists(file) {
		t.Error("the second run touched the file of the first")
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	if err := os.Chmod(part, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, last := save(file); code != 0 {
		t.Fatalf("after a run that was killed: exit %d, %s", code, last)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the snapshot: %+v %v", info, err)
	}
	if out, err := harness.Etcdutl("snapshot", "status", file); err != nil {
		t.Errorf("etcdutl does not like it: %s %v", out, err)
	}
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.db")
	if err := os.Symlink(target, other+".part"); err != nil {
		t.Fatal(err)
	}
	code, last = save(other)
	if text, err := os.ReadFile(target); code != 5 || err != nil || string(text) != "dear" {
		t.Errorf("a link in the way: exit %d, %s; it had %q %v", code, last, text, err)
	}
}

// TestCtlFullStdout: an answer that cannot be written is told, unless nobody reads it.
func TestCtlFullStdout(t *testing.T) {
	tools, _ := ctlTools(t)
	ours := tools["quorate ctl"]
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	reader, closed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	_ = reader.Close()
	for _, c := range []struct {
		out  *os.File
		said string
	}{{full, "Error: write /dev/stdout: no space left on device\n"}, {closed, ""}} {
		cmd := exec.Command(ours[0], append(slices.Clone(ours[1:]), "version")...)
		cmd.Env = harness.CleanEnv()
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = c.out, &errs
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 1 || errs.String() != c.said {
			t.Errorf("%s: exit %d, %q", c.out.Name(), code, errs.String())
		}
	}
}
