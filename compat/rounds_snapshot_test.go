package compat

import (
	"fmt"
	"math/rand"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// A restorer is a tool that makes a directory of a snapshot, and the products that start on what it made
// of a snapshot of 3.7: none that is older than the cluster in it.
type restorer struct {
	name string
	tool []string
	kind harness.Kind // its own product
}

func restorers(t *testing.T) []restorer {
	t.Helper()
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	bin := func(path string, err error) []string {
		if err != nil {
			t.Fatal(err)
		}
		return []string{filepath.Join(filepath.Dir(path), "etcdutl")}
	}
	return []restorer{
		{"quorate utl", []string{tools.Ours, "utl"}, harness.Ours},
		{"etcdutl 3.7", []string{tools.Etcdutl}, harness.Real},
		{"etcdutl 3.6", bin(harness.Etcd36()), harness.Real36},
		{"etcdutl 3.5", bin(harness.Etcd35()), harness.Real35},
	}
}

// releases are the versions of the products' clusters, in order.
var releases = map[harness.Kind]int{harness.Real35: 5, harness.Real36: 6, harness.Real: 7, harness.Ours: 7}

// TestSnapshotRounds restores snapshots of ours and of etcd 3.5, 3.6 and 3.7 by the tools of all of them,
// and starts ours and the tool's own product on what they made: identities, contents and hashes are those
// of the snapshot. With a bumped revision, whoever remembers an old one is told that it is compacted.
func TestSnapshotRounds(t *testing.T) {
	t.Parallel()
	all := harness.EnvInt(t, "COMPAT_ROUNDS_ALL", 0) > 0
	for _, from := range []harness.Kind{harness.Ours, harness.Real35, harness.Real36, harness.Real} {
		t.Run(from.String(), func(t *testing.T) {
			t.Parallel()
			m := harness.Launch(t, from)
			if from != harness.Ours {
				peopleRounds(t, m, false)
			}
			fillRounds(t, m, rand.New(rand.NewSource(seedOf(t))), 100)
			version := map[harness.Kind]string{harness.Real35: "3.5.0", harness.Real36: "3.6.0"}[from]
			if version == "" {
				version = "3.7.0"
			}
			waitVersions(t, m, version, version)
			before := contents(holdings(t, m, 6))
			file := filepath.Join(t.TempDir(), "snapshot.db")
			if out, err := m.Etcdctl("snapshot", "save", file); err != nil {
				t.Fatal(err, out)
			}
			m.Kill()
			seen := map[string]string{} // of what was restored, by what it must be the same
			for at, tool := range restorers(t) {
				if !all && from != harness.Ours && at > 1 {
					continue // ours and the newest one
				}
				restoreRound(t, tool, m, file, before, seen)
			}
		})
	}
}

// contents are holdings without the line of identities and without the members.
func contents(text string) string {
	var kept []string
	for _, line := range splitLines(text) {
		if !strings.HasPrefix(line, "cluster ") && !strings.HasPrefix(line, "member ") {
			kept = append(kept, line)
		}
	}
	return joinLines(kept)
}

func restoreRound(t *testing.T, tool restorer, m *harness.Member, file, before string, seen map[string]string) {
	t.Helper()
	kinds := []harness.Kind{harness.Ours}
	switch {
	case tool.kind == harness.Ours && m.Kind == harness.Ours:
		kinds = append(kinds, harness.Real)
	case tool.kind == harness.Ours:
		kinds = append(kinds, m.Kind)
	case releases[tool.kind] >= releases[m.Kind]:
		kinds = append(kinds, tool.kind)
	}
	for _, bump := range []bool{false, true} {
		made := filepath.Join(t.TempDir(), "made")
		args := append(tool.tool[1:], "snapshot", "restore", file, "--data-dir", made, "--name", m.Name,
			"--initial-cluster", m.Name+"="+m.PeerURL()+",other=http://127.0.0.1:1", "--initial-cluster-token", "tök en",
			"--initial-advertise-peer-urls", m.PeerURL())
		if bump {
			args = append(args, "--bump-revision=1000000000", "--mark-compacted")
		}
		// First with two members, whose log says what ids the tool computes.
		if out, err := exec.Command(tool.tool[0], args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", tool.name, err, out)
		}
		same(t, seen, fmt.Sprintf("ids, bump %v", bump), tool.name, harnessIdentity(t, made))
		for at, arg := range args {
			if arg == made {
				args[at] = filepath.Join(t.TempDir(), "alone")
				made = args[at]
			}
			args[at] = strings.TrimSuffix(args[at], ",other=http://127.0.0.1:1")
		}
		if out, err := exec.Command(tool.tool[0], args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", tool.name, err, out)
		}
		for _, kind := range kinds {
			one := m.Clone(kind, filepath.Join(t.TempDir(), "one"))
			harness.CopyDir(t, made, one.Dir)
			if err := one.Start(); err != nil {
				t.Fatalf("%s on what %s made of a snapshot of %s: %v", kind, tool.name, m.Kind, err)
			}
			if bump {
				bumped(t, one)
			} else if after := contents(holdings(t, one, 6)); after != before {
				t.Errorf("%s on what %s made of a snapshot of %s\n%s", kind, tool.name, m.Kind, differences(before, after))
			}
			identity, _, _ := strings.Cut(holdings(t, one, 1), " revision ")
			same(t, seen, fmt.Sprintf("members, bump %v", bump), tool.name, identity)
			one.Kill()
		}
		t.Logf("a snapshot of %s by %s, bump %v: %v start", m.Kind, tool.name, bump, kinds)
	}
}

// same demands that all tools come to the same.
func same(t *testing.T, seen map[string]string, what, who, found string) {
	t.Helper()
	if first, there := seen[what]; there && first != found {
		t.Errorf("%s of %s: %s, not %s", what, who, found, first)
	}
	seen[what] = found
}

// harnessIdentity is the metadata at the head of a directory's log: member and cluster.
func harnessIdentity(t *testing.T, dir string) string {
	t.Helper()
	identity, err := harness.Identity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// bumped looks with the eyes of a client that remembers a revision of before: a watch and a read from
// there are told that it is compacted, and what is written now is newer than all it has seen.
func bumped(t *testing.T, m *harness.Member) {
	t.Helper()
	client := m.Client()
	defer client.Close()
	const old = 30
	put, err := client.Put(t.Context(), "after", "x")
	if err != nil {
		// The alarm of before is still raised.
		disarm(t, m)
		if put, err = client.Put(t.Context(), "after", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if put.Header.Revision <= 1_000_000_000 {
		t.Errorf("%s begins at revision %d", m.Kind, put.Header.Revision)
	}
	for _, revision := range []int64{old, put.Header.Revision - 2} {
		if _, err := client.Get(t.Context(), "after", clientv3.WithRev(revision)); err == nil ||
			!strings.Contains(err.Error(), "compacted") {
			t.Errorf("%s, a read at %d: %v", m.Kind, revision, err)
		}
		select {
		case p := <-client.Watch(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(revision)):
			if p.CompactRevision != put.Header.Revision-1 || !p.Canceled {
				t.Errorf("%s, a watch from %d: %+v", m.Kind, revision, p)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s says nothing to a watch from %d", m.Kind, revision)
		}
	}
	all, err := client.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || all.Count < 100 {
		t.Errorf("%s has %v keys: %v", m.Kind, all, err)
	}
}
