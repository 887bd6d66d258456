package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"quorate/compat/harness"
)

// completions asks a shell what it would complete a line to, by the script that ours prints. The
// last word is the one that is not finished.
var completions = map[string]string{
	"bash": `source <("$TOOL" completion bash)
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _$TOOL; printf '%s\n' "${COMPREPLY[@]}"`,
	"fish": `$TOOL completion fish | source; complete -C "$argv" | string split -f 1 \t; true`,
}

// TestCompletion completes lines in the shells that are installed.
func TestCompletion(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	dir := t.TempDir()
	for _, tool := range []string{"etcdctl", "etcdutl"} {
		if err := os.Symlink(tools.Ours, filepath.Join(dir, tool)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "$(touch ran)"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for shell, script := range completions {
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		for _, test := range []struct{ line, want string }{
			{"etcdctl us", "user"},
			{"etcdctl user ", "add delete get grant-role list passwd revoke-role"},
			{"etcdctl user add --n", "--new-user-password --no-password"},
			{"etcdctl -w j", "json"},
			{"etcdctl get --order D", "DESCEND"},
			{"etcdctl --endpoints http://127.0.0.1:2379 user revo", "revoke-role"},
			{"etcdctl nosuch user a", ""},
			{"etcdctl get $(touch", ""},
			{"etcdctl get $(touch\tran) --keys-", "--keys-only"},
			{"etcdutl snap", "snapshot"},
			{"etcdutl snapshot restore --b", "--bump-revision"},
			{"etcdutl completion f", "fish"},
		} {
			words := strings.Split(test.line, " ")
			for i, word := range words {
				words[i] = strings.ReplaceAll(word, "\t", " ")
			}
			cmd := exec.Command(shell, append([]string{"-c", script, shell}, words...)...)
			if shell == "fish" {
				if strings.Contains(test.line, "$") {
					continue // it takes the line apart itself
				}
				cmd = exec.Command(shell, "-c", script, test.line)
			}
			cmd.Dir = dir
			cmd.Env = append(harness.CleanEnv(), "TOOL="+words[0], "HOME="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := cmd.Output()
			tried++
			if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != test.want {
				t.Errorf("%s: %q is completed to %q, %v", shell, test.line, got, err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("what stood in the line was run")
	}
	if tried < 12 {
		t.Errorf("only %d lines were tried", tried)
	}
}

// TestCtlSnapshotOld compares the commands that etcdctl had up to 3.5 with those of 3.5.
func TestCtlSnapshotOld(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	older, err := harness.Etcd35()
	if err != nil {
		t.Fatal(err)
	}
	etcdctl := filepath.Join(filepath.Dir(older), "etcdctl")
	both := []utl{{tool: []string{etcdctl}}, {tool: []string{tools.Ours, "ctl"}}}
	source := filepath.Join(t.TempDir(), "s.db")
	m, _ := utlSource(t, harness.Real35, source)
	for i := range both {
		both[i].dir = t.TempDir()
		copyAll(t, source, filepath.Join(both[i].dir, "s.db"))
		copyAll(t, filepath.Join(m.Dir, "member/snap/db"), filepath.Join(both[i].dir, "raw.db"))
	}
	compared := 0
	for _, line := range []string{
		"snapshot status",
		"snapshot status s.db more",
		"snapshot status nosuch.db",
		"snapshot status s.db",
		"snapshot status raw.db",
		"snap stat s.db",
		"snapshot status s.db -w simple",
		"snapshot status s.db -w json",
		"snapshot status s.db -w fields",
		"snapshot status s.db -w table",
		"snapshot status s.db --write-out=protobuf",
		"snapshot status s.db -w nosuch",
		"snapshot restore",
		"snapshot restore s.db more",
		"snapshot restore nosuch.db --data-dir no1",
		"snapshot restore s.db",
		"snapshot restore s.db",
		"snapshot restore raw.db --data-dir no2",
		"snapshot restore raw.db --data-dir raw --skip-hash-check",
		"snapshot restore s.db --data-dir d1 --wal-dir w1",
		"snapshot restore s.db --data-dir d2 --name m1 --initial-cluster m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380" +
			" --initial-advertise-peer-urls http://10.0.0.1:2380 --initial-cluster-token=token",
		"snapshot restore s.db --data-dir no3 --name m3",
	} {
		var seen [2]string
		done := make(chan int)
		for i, u := range both {
			go func() {
				stdout, stderr, code := u.run(strings.Fields(line)...)
				seen[i] = fmt.Sprintf("%s%sexit %d\n", stdout, mark(oldLog(stderr)), code)
				done <- i
			}()
		}
		<-done
		<-done
		compared++
		if seen[0] != seen[1] {
			t.Errorf("%s\netcdctl 3.5:\n%squorate ctl:\n%s", line, seen[0], seen[1])
		}
		if !strings.Contains(seen[1], "2> Deprecated: Use `etcdutl snapshot ") {
			t.Errorf("%s does not say where the command is now:\n%s", line, seen[1])
		}
	}
	for _, dir := range []string{"default.etcd", "raw", "d1", "d2"} {
		var status [2]string
		for i, u := range both {
			status[i], _, _ = utl{tool: []string{etcdctl}, dir: u.dir}.run("snapshot", "status", dir+"/member/snap/db", "-w", "json")
		}
		if status[0] == "" || sizes.ReplaceAllString(status[0], "") != sizes.ReplaceAllString(status[1], "") {
			t.Errorf("%s: restored by etcdctl 3.5 %s, by ours %s", dir, status[0], status[1])
		}
	}
	if help, _, _ := both[1].run("snapshot", "--help"); strings.Contains(help, "restore") {
		t.Errorf("the help has what etcdctl 3.7 does not:\n%s", help)
	}
	if !t.Failed() {
		t.Logf("evidence: %d lines print the same by etcdctl 3.5 and by quorate ctl", compared)
	}
}

// oldLog leaves the lines of the log out: 3.5 says other things in them than 3.7.
func oldLog(text string) string {
	var kept []string
	stack := false
	for _, line := range splitLines(text) {
		switch {
		case logHead.MatchString(line), strings.HasPrefix(line, `{"level":`):
			stack = true
		case stack && stackFrame.MatchString(line):
		default:
			stack = false
			kept = append(kept, line)
		}
	}
	return joinLines(kept)
}
