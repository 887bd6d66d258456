package compat

import (
	"fmt"
	"testing"

	"quorate/compat/harness"
)

// TestBootstrapDiscoveryByTLS has members of both products find each other through a discovery
// service that demands certificates: one that is believed by its authority, and one by nothing.
func TestBootstrapDiscoveryByTLS(t *testing.T) {
	s := newShop(t)
	own := []string{"--discovery-cert=" + s.path("good.pem"), "--discovery-key=" + s.path("good-key.pem")}
	for _, one := range []struct {
		service harness.Kind
		scheme  string
		flags   []string
	}{
		// An endpoint without a scheme is asked by TLS as soon as there are files for it.
		{harness.Real, "", append(own, "--discovery-cacert="+s.path("ca.pem"))},
		{harness.Ours, "https://", append(own, "--discovery-insecure-skip-tls-verify")},
	} {
		t.Run(fmt.Sprintf("%s %q", one.service, one.scheme), func(t *testing.T) {
			t.Parallel()
			address := host(harness.FreePort())
			service := harness.NewMember(one.service, t.TempDir())
			service.Flags = []string{"--listen-client-urls=" + service.ClientURL() + ",https://" + address,
				"--cert-file=" + s.path("good.pem"), "--key-file=" + s.path("good-key.pem"),
				"--client-cert-auth", "--trusted-ca-file=" + s.path("ca.pem")}
			harness.MustStart(t, service)
			t.Cleanup(service.Kill)
			client := service.Client()
			defer client.Close()
			mustPut(t, client, registry+"t/_config/size", "3")
			c := harness.NewCluster(t, false, []harness.Kind{harness.Ours, harness.Real, harness.Ours})
			foundBy(c, append(one.flags, "--discovery-token=t", "--discovery-endpoints="+one.scheme+address)...)
			c.Start(c.Members...)
			checkCluster(t, c)
		})
	}
}
