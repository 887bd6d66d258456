package compat

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate/compat/harness"
)

// TestStartRefusals starts members that do not fit into a cluster: each ends with the same words as
// real etcd, and the cluster goes on.
func TestStartRefusals(t *testing.T) {
	t.Parallel()
	eachMix(t, func(t *testing.T, m mix) {
		said := [2]string{}
		t.Run("side by side", func(t *testing.T) {
			for i, one := range []struct {
				m    mix
				kind harness.Kind
			}{{"EEE", harness.Real}, {m, kindOf(rune(m[0]))}} {
				t.Run(fmt.Sprintf("%s %s", one.m, one.kind), func(t *testing.T) {
					t.Parallel()
					said[i] = startRefusals(t, one.m, one.kind)
				})
			}
		})
		if said[0] != said[1] {
			t.Errorf("etcd and %s refuse differently\n%s", m, sideBySide(said[0], said[1]))
		}
		t.Logf("%s", said[1])
	}, "QQQ")
}

func startRefusals(t *testing.T, m mix, kind harness.Kind) string {
	c := harness.LaunchCluster(t, false, m.kinds(), "--strict-reconfig-check=false")
	victim := c.Members[0]
	initial := victim.Initial
	var said []string
	names := newNames(t, c)
	try := func(what string, one *harness.Member) {
		t.Helper()
		said = append(said, what+": "+names.replace(endOf(t, one)))
	}
	// A member that comes to a cluster to which nobody has added it.
	stranger := func() *harness.Member {
		one := harness.NewMember(kind, t.TempDir())
		one.Name, one.Existing = "stranger", true
		one.Initial = initial + ",stranger=" + one.PeerURL()
		t.Cleanup(func() { harness.Cleanup(t, one) })
		names.add("stranger", one)
		return one
	}
	try("a stranger", stranger())
	one := stranger()
	one.Initial = "stranger=" + one.PeerURL()
	try("a stranger that knows nobody", one)
	one = stranger()
	one.Initial = "other=http://127.0.0.1:9,stranger=" + one.PeerURL()
	try("a stranger that knows one that is not there", one)
	one = stranger()
	one.Initial = initial
	try("a stranger that does not know itself", one)
	one = stranger()
	one.Initial += ",again=" + one.PeerURL()
	try("an address twice", one)
	one = stranger()
	one.Existing, one.Flags = false, []string{"--initial-cluster-token=other"}
	one.Initial = initial + ",stranger=" + one.PeerURL()
	victim.Kill()
	lost := victim.Dir + ".lost"
	if err := os.Rename(victim.Dir, lost); err != nil {
		t.Fatal(err)
	}
	try("a member that lost its directory", victim)
	if err := os.RemoveAll(victim.Dir); err != nil {
		t.Fatal(err)
	}
	victim.Existing, victim.Initial = true, initial+",stranger="+one.PeerURL()
	try("a member that lost its directory and knows one too many", victim)
	if err := os.RemoveAll(victim.Dir); err != nil {
		t.Fatal(err)
	}
	victim.Existing, victim.Initial = false, initial
	if err := os.Rename(lost, victim.Dir); err != nil {
		t.Fatal(err)
	}
	c.Start(victim)
	c.Remove(victim)
	try("a member that was removed", victim)
	c.Agree(5)
	return joinLines(said)
}

// names replaces what only this cluster has: ids and addresses.
type names struct{ pairs []string }

func newNames(t *testing.T, c *harness.Cluster) *names {
	t.Helper()
	status, err := c.Members[0].Status()
	if err != nil {
		t.Fatal(err)
	}
	n := &names{[]string{fmt.Sprintf("%x", status.Header.ClusterId), "CLUSTER"}}
	for _, m := range c.Members {
		n.pairs = append(n.pairs, fmt.Sprintf("%x", c.MustID(m)), "ID-"+m.Name)
		n.add(m.Name, m)
	}
	return n
}

func (n *names) add(name string, m *harness.Member) {
	n.pairs = append([]string{strings.TrimPrefix(m.PeerURL(), "http://"), "PEER-" + name,
		m.Endpoint(), "CLIENT-" + name}, n.pairs...)
}

func (n *names) replace(text string) string { return strings.NewReplacer(n.pairs...).Replace(text) }

// endOf starts a member that must end by itself, and says with which code and words.
func endOf(t *testing.T, m *harness.Member) string {
	t.Helper()
	if err := m.Spawn(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Exited():
	case <-time.After(40 * time.Second):
		t.Errorf("it runs on\n%s", m.LogTail(12))
		m.Kill()
		return "it runs on"
	}
	const removed = "the member has been permanently removed from the cluster"
	words := ""
	for _, line := range splitLines(m.LastLog()) {
		var entry struct{ Level, Msg, Error string }
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		// The first error counts; real etcd goes on to complain of the directory that it did not make.
		if words == "" && slices.Contains([]string{"fatal", "panic", "error"}, entry.Level) {
			words = entry.Error
		}
		if entry.Msg == removed || entry.Error == removed {
			return removed // with which code etcd then ends is a matter of chance
		}
	}
	if from, to := strings.Index(words, "{ClusterID"), strings.LastIndex(words, "}"); 0 <= from && from < to {
		words = words[:from] + "..." + words[to+1:] // the members, in the order of their ids
	}
	return fmt.Sprintf("code %d; %s", m.ExitCode(), words)
}
