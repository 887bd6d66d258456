package compat

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"quorate/compat/harness"
)

// listenNotify opens the socket that systemd would.
func listenNotify(address string) (*net.UnixConn, error) {
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
}

// binaryOf is the program of a product.
func binaryOf(t *testing.T, kind harness.Kind) string {
	t.Helper()
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	if kind == harness.Ours {
		return tools.Ours
	}
	return tools.Etcd
}

// bySRV sets the members of a cluster up to find each other by SRV records of a DNS server.
func bySRV(t *testing.T, c *harness.Cluster, dns *dnsServer, flags ...string) []dnsmessage.SRVResource {
	t.Helper()
	var records []dnsmessage.SRVResource
	for i, m := range c.Members {
		host := fmt.Sprintf("m%d%s", i+1, hostsOf)
		port := portOf(m.PeerURL())
		m.Advertise = fmt.Sprintf("http://%s:%d", strings.TrimSuffix(host, "."), port)
		dns.behind(t, m)
		records = append(records, srvRecord(host, port))
	}
	foundBy(c, append([]string{"--discovery-srv=members.test"}, flags...)...)
	return records
}

func portOf(url string) int {
	var port int
	if _, err := fmt.Sscanf(url[strings.LastIndexByte(url, ':'):], ":%d", &port); err != nil {
		panic(err) // the harness makes these URLs
	}
	return port
}

// TestBootstrapSRV has members of both products find each other by SRV records.
func TestBootstrapSRV(t *testing.T) {
	t.Run("errors", srvErrors)
	t.Run("mixed", func(t *testing.T) {
		t.Parallel()
		dns := startDNS(t)
		c := harness.NewCluster(t, false, []harness.Kind{harness.Ours, harness.Real, harness.Ours})
		dns.set("_etcd-server._tcp.members.test.", bySRV(t, c, dns)...)
		c.Start(c.Members...)
		checkCluster(t, c)
	})
	t.Run("named, by TCP", func(t *testing.T) {
		t.Parallel()
		dns := startDNS(t)
		dns.tcpOnly = true
		c := harness.NewCluster(t, false, []harness.Kind{harness.Ours, harness.Ours, harness.Real})
		dns.set("_etcd-server-blue._tcp.members.test.", bySRV(t, c, dns, "--discovery-srv-name=blue")...)
		// Without the name, these would be taken.
		dns.set("_etcd-server._tcp.members.test.", srvRecord("other"+hostsOf, 1))
		c.Start(c.Members...)
		checkCluster(t, c)
	})
	t.Run("late", func(t *testing.T) {
		t.Parallel()
		dns := startDNS(t)
		c := harness.NewCluster(t, false, []harness.Kind{harness.Ours, harness.Ours, harness.Ours})
		records := bySRV(t, c, dns)
		for _, m := range c.Members {
			if err := m.Spawn(); err != nil {
				t.Fatal(err)
			}
		}
		// Records come when every member has looked in vain, for two services.
		for deadline := time.Now().Add(harness.StartTimeout); dns.times() < 6; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d questions", dns.times())
			}
		}
		dns.set("_etcd-server._tcp.members.test.", records...)
		for _, m := range c.Members {
			if err := m.WaitReady(harness.StartTimeout); err != nil {
				t.Fatalf("%v\n%s", err, m.LogTail(5))
			}
			logged(t, m, "the SRV records do not name the whole cluster; looking again")
		}
		checkCluster(t, c)
	})
}

// srvErrors compares why records lead to no cluster. Ours looks again before it tells, so that all
// cases wait at once.
func srvErrors(t *testing.T) {
	t.Parallel()
	var cases sync.WaitGroup
	defer cases.Wait()
	for name, one := range map[string]struct {
		advertise string
		service   string
		port      int
	}{
		"no records":     {advertise: "http://127.0.0.1:4711"},
		"not listed":     {advertise: "http://127.0.0.1:4711", service: "_etcd-server", port: 4712},
		"not that name":  {advertise: "http://127.0.0.1:4711", service: "_etcd-server-blue", port: 4711},
		"other scheme":   {advertise: "https://127.0.0.1:4711", service: "_etcd-server", port: 4711},
		"unknown itself": {advertise: "http://nobody.test:4711", service: "_etcd-server", port: 4711},
	} {
		dns := startDNS(t)
		cases.Go(func() {
			if one.service != "" {
				dns.set(one.service+"._tcp.members.test.", srvRecord("m1"+hostsOf, one.port))
			}
			out := both(func(kind harness.Kind) string {
				m := harness.NewMember(kind, t.TempDir())
				t.Cleanup(m.Kill)
				dns.behind(t, m)
				m.Bare, m.Flags = true, []string{
					"--name=m1", "--data-dir=" + m.Dir,
					"--listen-client-urls=" + m.ClientURL(), "--advertise-client-urls=" + m.ClientURL(),
					"--listen-peer-urls=" + m.PeerURL(), "--initial-advertise-peer-urls=" + one.advertise,
					"--discovery-srv=members.test",
				}
				// Ours has the system look for addresses, which does not tell whom it asks.
				return strings.ReplaceAll(startError(t, m), "nobody.test on "+dns.address+":53", "nobody.test")
			})
			if out[0] != out[1] {
				t.Errorf("%s\n%s", name, sideBySide(out[0], out[1]))
			}
			t.Logf("%s: %s", name, out[0])
		})
	}
}
