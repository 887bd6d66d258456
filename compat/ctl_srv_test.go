package compat

import (
	"context"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate/compat/harness"
)

// TestCtlSRV lets etcdctl and `quorate ctl` find their endpoints by SRV records, of which some lead
// nowhere.
func TestCtlSRV(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	dns := startDNS(t)
	s := newShop(t)
	s.issue("server", nil, func(c *x509.Certificate) {
		c.DNSNames = append(c.DNSNames, "m1"+strings.TrimSuffix(hostsOf, "."))
	})
	secured := harness.FreePort()
	m := harness.Prepare(t, harness.Ours, "--cert-file="+s.path("server.pem"), "--key-file="+s.path("server-key.pem"))
	m.Flags = append(m.Flags, "--listen-client-urls="+m.ClientURL()+","+local("https", secured))
	harness.MustStart(t, m)
	masks := newShell(t, m, tools.Etcdctl)
	plain := srvRecord("m1"+hostsOf, portOf(m.ClientURL()))
	dns.set("_etcd-client._tcp.plain.test.", plain, srvRecord("m1"+hostsOf, harness.FreePort()))
	dns.set("_etcd-client-some._tcp.plain.test.", plain)
	dns.set("_etcd-client._tcp.both.test.", plain)
	dns.set("_etcd-client-ssl._tcp.both.test.", srvRecord("m1"+hostsOf, secured))
	dns.set("_etcd-client-ssl._tcp.m.example.", srvRecord("m1"+hostsOf, secured))
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	s.must(os.WriteFile(conf, []byte("nameserver "+dns.address+"\n"), 0o644))

	lines := []string{
		"put k v -d plain.test", "get k -d plain.test", "get k --discovery-srv plain.test --discovery-srv-name some",
		"get k -d plain.test --discovery-srv-name other", "get k -d nothing.test",
		"get k -d plain.test --insecure-discovery=false --command-timeout 400ms",
		"get k -d both.test --cacert CA", "get k -d both.test --insecure-discovery=false --cacert CA --command-timeout 400ms",
		"get k -d m.example --insecure-discovery=false --cacert CA", "endpoint health --cluster -d plain.test",
		"member list -d both.test --cacert CA -w json", "get k -d plain.test -w nonsense --cert CERT",
	}
	tell := func(tool []string, line string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		words := strings.Fields(strings.ReplaceAll(line, "CA", s.path("ca.pem")))
		cmd := exec.CommandContext(ctx, filepath.Join("testdata", "behind-dns"), append(slices.Clone(tool[1:]), words...)...)
		cmd.Env = append(harness.CleanEnv(), "RESOLV_CONF="+conf, "MEMBER="+tool[0])
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		return masks.mask(stdout.String()) + mark(masks.mask(stderr.String())) + cmd.ProcessState.String()
	}
	for _, line := range lines {
		theirs, ours := tell([]string{tools.Etcdctl}, line), tell([]string{tools.Ours, "ctl"}, line)
		if theirs != ours {
			t.Errorf("%s\netcdctl:\n%s\nquorate ctl:\n%s", line, theirs, ours)
		}
		if testing.Verbose() {
			t.Logf("%s\n%s", line, theirs)
		}
	}
	if !t.Failed() {
		t.Logf("evidence: %d commands find their endpoints, or none, by the same SRV records", len(lines))
	}
}

// TestCtlOldAPI shows what an old script is told that asks for the v2 API, which etcdctl ignores.
func TestCtlOldAPI(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	for _, args := range [][]string{{"ls", "/"}, {"version"}} {
		cmd := exec.Command(tools.Ours, append([]string{"ctl"}, args...)...)
		cmd.Env = append(harness.CleanEnv(), "ETCDCTL_API=2")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		_ = cmd.Run()
		if !strings.HasPrefix(stderr.String(), "ETCDCTL_API=2: the v2 API is not supported yet") {
			t.Errorf("%v: %s", args, stderr.String())
		}
	}
}
