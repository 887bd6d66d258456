package compat

import (
	"fmt"
	"math/rand"
	"testing"

	"quorate/compat/harness"
)

// TestOlderDirectories starts ours on what etcd 3.5 and 3.6 left, stopped or killed, with and without
// snapshots on disk: everything is there, and real etcd 3.7 starts on what ours leaves. The log of a
// 3.5 holds requests of the v2 API, by which it told its name and URLs.
func TestOlderDirectories(t *testing.T) {
	for _, older := range []harness.Kind{harness.Real35, harness.Real36} {
		for _, isKilled := range []bool{false, true} {
			for _, count := range []int{100000, 40} {
				name := fmt.Sprintf("%s/killed=%v/snapshot-count=%d", older, isKilled, count)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					olderDirectory(t, older, isKilled, count)
				})
			}
		}
	}
}

func olderDirectory(t *testing.T, older harness.Kind, isKilled bool, count int) {
	m := harness.Launch(t, older, fmt.Sprintf("--snapshot-count=%d", count))
	r := rand.New(rand.NewSource(int64(count)))
	for _, next := range []harness.Kind{harness.Ours, harness.Real} {
		disarm(t, m)
		work(t, m, r, harness.EnvInt(t, "COMPAT_OLDER_OPS", 150))
		before := state(t, m)
		if isKilled {
			m.Kill()
		} else {
			harness.MustStop(t, m)
		}
		m.Kind = next
		harness.MustStart(t, m)
		if after := state(t, m); after != before {
			t.Fatalf("on %s the data differ\n%s", m.Kind, differences(before, after))
		}
	}
	halt(t, m, isKilled)
}
