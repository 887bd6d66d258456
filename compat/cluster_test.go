package compat

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"quorate/compat/harness"
)

// A mix is the products of a cluster's members, a letter each: E is etcd 3.7, Q is Quorate and 6 is
// etcd 3.6.
type mix string

func (m mix) kinds() []harness.Kind {
	var kinds []harness.Kind
	for _, letter := range m {
		kinds = append(kinds, kindOf(letter))
	}
	return kinds
}

func kindOf(letter rune) harness.Kind {
	switch letter {
	case 'E':
		return harness.Real
	case '6':
		return harness.Real36
	case 'Q':
		return harness.Ours
	}
	panic(fmt.Sprintf("no product has the letter %q", letter))
}

// eachMix runs a test for each of some mixes, or for those named in COMPAT_MIX.
func eachMix(t *testing.T, run func(*testing.T, mix), mixes ...mix) {
	if text := os.Getenv("COMPAT_MIX"); text != "" {
		mixes = nil
		for _, name := range strings.Split(text, ",") {
			mixes = append(mixes, mix(name))
		}
	}
	for _, one := range mixes {
		t.Run(string(one), func(t *testing.T) { run(t, one) })
	}
}

// seedOf is the seed of a test: COMPAT_SEED, or a new one, which is logged.
func seedOf(t *testing.T) int64 {
	t.Helper()
	seed := int64(harness.EnvInt(t, "COMPAT_SEED", int(time.Now().UnixNano()%1_000_000)))
	t.Logf("COMPAT_SEED=%d", seed)
	return seed
}

// startLoad lets an application work on a cluster.
func startLoad(t *testing.T, c *harness.Cluster, workers int, seed int64) *harness.Load {
	t.Helper()
	return startPatientLoad(t, c, workers, seed, harness.GiveUpAfter)
}

// startPatientLoad lets an application work that gives up a request after some time.
func startPatientLoad(t *testing.T, c *harness.Cluster, workers int, seed int64, giveUp time.Duration) *harness.Load {
	t.Helper()
	l, err := harness.NewLoad(harness.Endpoints(c.Running()))
	if err != nil {
		t.Fatal(err)
	}
	l.GiveUp = giveUp
	l.Start(workers, seed)
	return l
}

// progress waits until the load got on.
func progress(t *testing.T, l *harness.Load, writes int64) {
	t.Helper()
	if err := l.WaitFor(writes, 30*time.Second); err != nil {
		t.Fatalf("the load stands still: %v", err)
	}
}

// finish ends the load, demands that the application noticed nothing but delays, that all members
// agree, and that what they tell is what the application was told.
func finish(t *testing.T, c *harness.Cluster, l *harness.Load, hashes int) {
	t.Helper()
	for _, problem := range l.Stop() {
		t.Errorf("the load: %s", problem)
	}
	revision := c.Agree(hashes)
	for _, wrong := range l.Check(c.SameHistory(revision)) {
		t.Errorf("the history: %s", wrong)
	}
	t.Logf("%s; revision %d", l.Summary(), revision)
}
