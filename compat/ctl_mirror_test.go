package compat

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// TestCtlMirrorSides: a mirror does not feed itself, does not take somebody's data for its own, and
// sees when its source is another than before.
func TestCtlMirrorSides(t *testing.T) {
	fromEach(t, func(t *testing.T, ours []string, source, dest *harness.Member, a, b *clientv3.Client) {
		for i := range 10 {
			mustPut(t, a, fmt.Sprintf("a/%d", i), "old")
		}
		for i := range 20 {
			mustPut(t, a, "a/0", fmt.Sprint(i))
		}
		mirrorItself(t, ours, source, a)
		mirrorForeign(t, ours, source, dest, b)
		mirrorAnew(t, ours, source, dest, a, b)
	})
}

func mirrorItself(t *testing.T, ours []string, source *harness.Member, a *clientv3.Client) {
	before, err := a.Get(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range []string{
		"", "--rev 5", "--prefix a/", "--prefix a/ --rev 2", "--prefix a/ --no-dest-prefix",
		"--prefix a/ --dest-prefix a/b/ --rev 2",
	} {
		args := append([]string{"make-mirror", source.Endpoint()}, strings.Fields(flags)...)
		code, said := startTool(t, ours, source, args...).wait()
		if code != 128 || !strings.HasPrefix(said, "Error: the destination is the source itself") {
			t.Errorf("a mirror into itself, %q: exit %d, %s", flags, code, said)
		}
	}
	if p, err := a.Get(t.Context(), "a/"); err != nil || p.Header.Revision != before.Header.Revision {
		t.Errorf("something was written: %v %v", p, err)
	}
}

func mirrorForeign(t *testing.T, ours []string, source, dest *harness.Member, b *clientv3.Client) {
	for _, key := range []string{"m/0", "m/x", "m/y"} {
		mustPut(t, b, key, "own")
	}
	refused := startTool(t, ours, source, "make-mirror", dest.Endpoint(), "--prefix", "a/", "--dest-prefix", "m/")
	code, said := refused.wait()
	if code != 1 || !strings.Contains(said, "would remove 2 of them, and only 1 are the source's") || count(b, "m/") != 3 {
		t.Errorf("a destination with one common key: exit %d, %d keys, %s", code, count(b, "m/"), said)
	}
	if _, err := b.Delete(t.Context(), "m/y"); err != nil {
		t.Fatal(err)
	}
}

func mirrorAnew(t *testing.T, ours []string, source, dest *harness.Member, a, b *clientv3.Client) {
	mirror := startTool(t, ours, source, "make-mirror", dest.Endpoint(), "--prefix", "a/", "--dest-prefix", "m/")
	replay := startTool(t, ours, source, "make-mirror", dest.Endpoint(), "--prefix", "a/", "--dest-prefix", "r/", "--rev", "2")
	equal := func(prefix string) func() bool {
		return func() bool {
			want, err := pairsUnder(a, "a/")
			found, errFound := pairsUnder(b, prefix)
			return err == nil && errFound == nil && fmt.Sprint(found) == fmt.Sprint(want)
		}
	}
	eventually(t, "the copy equals", equal("m/"))
	eventually(t, "the replay equals", equal("r/"))
	for _, h := range []*held{mirror, replay} {
		if err := h.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	source.Kill()
	if err := os.RemoveAll(source.Dir); err != nil {
		t.Fatal(err)
	}
	harness.MustStart(t, source)
	// Fewer revisions than the mirrors have seen.
	for i := range 9 {
		mustPut(t, a, fmt.Sprintf("a/%d", i), "new")
	}
	for _, h := range []*held{mirror, replay} {
		_ = h.cmd.Process.Signal(syscall.SIGCONT)
	}
	eventually(t, "the mirror of the new source equals", equal("m/"))
	if code, said := replay.wait(); code != 1 || !strings.HasPrefix(said, "Error: the source was restored or made anew") {
		t.Errorf("a replay of a source that is gone: exit %d, %s", code, said)
	}
	// And goes on.
	mustPut(t, a, "a/9", "newer")
	eventually(t, "the mirror goes on", func() bool {
		p, err := b.Get(context.Background(), "m/9")
		return err == nil && len(p.Kvs) == 1 && string(p.Kvs[0].Value) == "newer"
	})
	mirror.kill()
	if !strings.Contains(mirror.stderr.String(), "the source was restored or made anew, copying again") {
		t.Errorf("the mirror tells nothing: %s", mirror.stderr.String())
	}
}
