package compat

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"quorate/compat/harness"
)

// authority signs certificates in the style of cfssl: ECDSA on P-256, names in the subject, both
// usages.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// shop is a directory with certificates.
type shop struct {
	t    testing.TB
	dir  string
	root *authority
}

const revokedSerial = 0xbeef

func newShop(t testing.TB) *shop {
	s := &shop{t: t, dir: t.TempDir()}
	s.root = s.authority("root", nil)
	s.write("ca.pem", s.root.pem)
	s.issue("good", nil, nil)
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{
			{SerialNumber: big.NewInt(revokedSerial), RevocationTime: time.Now()}},
	}, s.root.cert, s.root.key)
	s.must(err)
	s.write("crl.der", list)
	return s
}

func (s *shop) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shop) path(name string) string { return filepath.Join(s.dir, name) }

// write replaces a file at once.
func (s *shop) write(name string, contents []byte) {
	s.t.Helper()
	s.must(os.WriteFile(s.path(name+".new"), contents, 0o600))
	s.must(os.Rename(s.path(name+".new"), s.path(name)))
}

func subject(name string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{"k8s"}, OrganizationalUnit: []string{"System"},
		Locality: []string{"BeiJing"}, Country: []string{"CN"}}
}

func (s *shop) authority(name string, by *authority, change ...func(*x509.Certificate)) *authority {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject(name),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	for _, c := range change {
		c(template)
	}
	issuer := &authority{cert: template, key: key}
	if by != nil {
		issuer = by
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, &key.PublicKey, issuer.key)
	s.must(err)
	cert, err := x509.ParseCertificate(der)
	s.must(err)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes NAME.pem and NAME-key.pem, by our authority if no other is named.
func (s *shop) issue(name string, by *authority, change func(*x509.Certificate), chain ...[]byte) {
	s.t.Helper()
	if by == nil {
		by = s.root
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject("etcd"),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"m.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(template)
	}
	issuer, signer := by.cert, by.key
	if template.Subject.CommonName == "self" {
		issuer, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, signer)
	s.must(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.write(name+".pem", slices.Concat(append([][]byte{text}, chain...)...))
	der, err = x509.MarshalECPrivateKey(key)
	s.must(err)
	s.write(name+"-key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// callers makes certificates of every kind and lists their names.
func (s *shop) callers() []string {
	s.t.Helper()
	other := s.authority("other", nil)
	s.issue("other-ca", other, nil)
	s.issue("namesake-ca", s.authority("root", nil), nil)
	s.issue("expired", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	s.issue("early", nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	s.issue("revoked", nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(revokedSerial) })
	s.issue("server-only", nil, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })
	s.issue("client-only", nil, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })
	s.issue("any-usage", nil, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	})
	s.issue("no-usage", nil, func(c *x509.Certificate) { c.ExtKeyUsage = nil })
	s.issue("self-signed", nil, func(c *x509.Certificate) { c.Subject.CommonName = "self" })
	s.issue("is-ca", nil, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	s.issue("other-name", nil, func(c *x509.Certificate) { c.Subject.CommonName = "nobody" })
	s.issue("other-host", nil, func(c *x509.Certificate) { c.DNSNames = []string{"n.invalid"} })
	s.issue("other-address", nil, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"m.example"}, []net.IP{net.IPv4(10, 9, 9, 9)}
	})
	s.issue("only-other-address", nil, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = nil, []net.IP{net.IPv4(10, 9, 9, 9)}
	})
	s.issue("no-names", nil, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil })
	deputy := s.authority("deputy", s.root)
	s.issue("chain", deputy, nil, deputy.pem)
	s.issue("half-chain", deputy, nil)
	stale := s.authority("stale", s.root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	s.issue("stale-chain", stale, nil, stale.pem)
	gone := s.authority("gone", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	s.issue("expired-ca", gone, nil)
	narrow := s.authority("narrow", nil, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	s.issue("narrow-ca", narrow, nil)
	named := s.authority("named", nil, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"else.example"}
	})
	s.issue("named-ca", named, nil)
	s.write("ca.pem", slices.Concat(s.root.pem, gone.pem, narrow.pem, named.pem))
	return []string{"", "good", "other-ca", "namesake-ca", "expired", "early", "revoked", "server-only",
		"client-only", "any-usage", "no-usage", "self-signed", "is-ca", "other-name", "other-host",
		"other-address", "only-other-address", "no-names", "chain", "half-chain", "stale-chain",
		"expired-ca", "narrow-ca", "named-ca"}
}

// config is a client's, with the certificate NAME unless that is empty.
func (s *shop) config(name string) *tls.Config {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(s.root.cert)
	config := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(s.path(name+".pem"), s.path(name+"-key.pem"))
		s.must(err)
		// Whatever authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &pair, nil
		}
	}
	return config
}

// quiet is how long a server that refuses a client of TLS 1.3 has to say so.
const quiet = 400 * time.Millisecond

// knock tells how far a client gets: what is read after the handshake is an alert of the server that
// has only now looked at the certificate, or the end.
func knock(network, address string, config *tls.Config) string {
	raw, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return "nobody listens"
	}
	defer raw.Close()
	conn := tls.Client(raw, config)
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	if err := conn.Handshake(); err != nil {
		return "handshake: " + manner(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(quiet))
	reader := bufio.NewReader(conn)
	if _, err := reader.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return "after the handshake: " + manner(err)
	}
	// A timeout has broken the reading half for good, so that the request goes over another one.
	conn.Close()
	again, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, network, address, config)
	if err != nil {
		return "handshake: " + manner(err)
	}
	defer again.Close()
	_ = again.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprint(again, "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(again), nil)
	if err != nil {
		return "request: " + manner(err)
	}
	answer.Body.Close()
	return fmt.Sprint("served ", answer.StatusCode)
}

func manner(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "remote error"):
		return "refused"
	case strings.Contains(text, "failed to verify"), strings.Contains(text, "x509:"):
		return "the client refuses"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "reset"),
		strings.Contains(text, "broken pipe"):
		return "cut off"
	}
	return text
}

// knocks has all callers at a door, by both versions of TLS; only their kind of end is told.
func (s *shop) knocks(network, address string, callers []string, protocols ...string) []string {
	s.t.Helper()
	lines := make([]string, 2*len(callers))
	var wg sync.WaitGroup
	for i, name := range callers {
		for j, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			config := s.config(name)
			config.MinVersion, config.MaxVersion, config.NextProtos = version, version, protocols
			wg.Go(func() {
				lines[2*i+j] = fmt.Sprintf("%s by %s: %s", name, tls.VersionName(version),
					knock(network, address, config))
			})
		}
	}
	wg.Wait()
	return lines
}

// fetchTLS asks by whatever HTTP the server offers.
func fetchTLS(url string, config *tls.Config) string {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
	p, err := client.Get(url)
	if err != nil {
		return "no answer: " + manner(err)
	}
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	if err != nil || strings.HasSuffix(url, "/metrics") {
		body = nil
	}
	return fmt.Sprintf("%s %d %s %q", p.Proto, p.StatusCode, p.Header.Get("Content-Type"), body)
}

// etcdctl runs the real one and tells what it printed, or that it failed.
func etcdctl(t testing.TB, args ...string) string {
	t.Helper()
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tools.Etcdctl, append([]string{"--dial-timeout=1s", "--command-timeout=3s"}, args...)...)
	cmd.Env = harness.CleanEnv()
	out, err := cmd.Output()
	if err != nil {
		return "failed: " + err.Error()
	}
	return strings.TrimSpace(string(out))
}

func (s *shop) ctlFlags(name string) []string {
	flags := []string{"--cacert=" + s.path("ca.pem")}
	if name != "" {
		flags = append(flags, "--cert="+s.path(name+".pem"), "--key="+s.path(name+"-key.pem"))
	}
	return flags
}

func local(scheme string, port int) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port) }

func host(port int) string { return fmt.Sprint("127.0.0.1:", port) }

// presented is the serial number of the certificate that a server shows.
func (s *shop) presented(address string) string {
	config := s.config("good")
	config.RootCAs, config.InsecureSkipVerify = nil, true
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, config)
	if err != nil {
		return "none: " + manner(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

// rejections are the lines that say who was not let in and why, each kind once. Left out are times,
// and what the products know differently of a client: the versions and protocols that it offered.
func rejections(log, dir string) []string {
	var lines []string
	for line := range strings.Lines(log) {
		var one struct {
			Level, Msg, Error string
			Names             []string `json:"dns-names"`
			Addresses         []string `json:"ip-addresses"`
		}
		if json.Unmarshal([]byte(line), &one) != nil || !strings.HasPrefix(one.Msg, "rejected connection") {
			continue
		}
		text := strings.ReplaceAll(one.Error, dir, "DIR")
		for _, cut := range []string{": current time", " (possibly because", ": DNS name", ": [", " ([", ": read: ", " (lookup"} {
			text, _, _ = strings.Cut(text, cut)
		}
		lines = append(lines, fmt.Sprint(one.Level, " ", one.Msg, ": ", text, one.Addresses, one.Names))
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

func compareTLS(t *testing.T, out [2]string) {
	t.Helper()
	t.Logf("%s", out[0])
	for i, line := range strings.Split(out[1], "\n") {
		if theirs := strings.Split(out[0], "\n"); i >= len(theirs) || theirs[i] != line {
			t.Errorf("etcd:\n%s\nquorate:\n%s\nfirst difference: %s", out[0], out[1], line)
			break
		}
	}
}

// TestTLSClients has clients with every kind of certificate at both servers, on the client port and
// on the port for metrics; the real etcdctl; HTTP of both versions; and files that are replaced.
func TestTLSClients(t *testing.T) {
	shops := [2]*shop{newShop(t), newShop(t)} // each replaces its own files
	out := both(func(kind harness.Kind) string {
		s := shops[kind]
		callers := s.callers()
		port, metrics := harness.FreePort(), harness.FreePort()
		s.issue("server", nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0xa1) })
		m := harness.Prepare(t, kind,
			"--cert-file="+s.path("server.pem"), "--key-file="+s.path("server-key.pem"),
			"--trusted-ca-file="+s.path("ca.pem"), "--client-crl-file="+s.path("crl.der"),
			"--listen-metrics-urls="+local("https", metrics))
		m.Flags = append(m.Flags, "--listen-client-urls="+m.ClientURL()+","+local("https", port))
		if err := m.Start(); err != nil {
			return err.Error()
		}
		lines := []string{"client port"}
		lines = append(lines, s.knocks("tcp", host(port), callers)...)
		lines = append(lines, "metrics port")
		lines = append(lines, s.knocks("tcp", host(metrics), callers)...)
		for _, path := range []string{"/version", "/health", "/metrics", "/nonsense", "/livez"} {
			lines = append(lines, path+" "+fetchTLS(local("https", port)+path, s.config("good")),
				path+" "+fetchTLS(local("https", metrics)+path, s.config("good")))
		}
		old := s.config("good")
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		odd := s.config("good")
		odd.NextProtos = []string{"foo"}
		lines = append(lines, "TLS 1.1: "+knock("tcp", host(port), old),
			"another protocol: "+knock("tcp", host(port), odd))

		ctl := func(name, endpoint string, args ...string) string {
			args = append(append([]string{"--endpoints=" + endpoint}, s.ctlFlags(name)...), args...)
			return "etcdctl as " + name + ": " + etcdctl(t, args...)
		}
		lines = append(lines, ctl("good", local("https", port), "put", "a", "b"),
			ctl("good", host(port), "get", "a"))
		strangers := []string{"", "other-ca", "revoked"}
		told := make([]string, len(strangers))
		var wg sync.WaitGroup
		for i, name := range strangers {
			wg.Go(func() { told[i] = ctl(name, local("https", port), "put", "a", "c") })
		}
		wg.Wait()
		lines = append(lines, told...)

		look := func(what string) {
			lines = append(lines, what+": server shows "+s.presented(host(port)),
				what+": "+knock("tcp", host(port), s.config("good")))
		}
		look("at first")
		s.issue("server", nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0xa2) })
		look("another certificate")
		s.write("server-key.pem", []byte("nonsense"))
		look("a broken key")
		s.issue("server", nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0xa3) })
		look("a third certificate")
		s.write("crl.der", []byte("nonsense"))
		look("a broken list of revocations")
		s.must(os.Remove(s.path("crl.der")))
		look("no list of revocations")
		return joinLines(append(lines, rejections(m.Log(), s.dir)...))
	})
	compareTLS(t, out)
}

// TestTLSBounds compares what flags allow: versions, ciphers, names; certificates that a member
// makes; sockets with and without TLS; a port for HTTP alone.
func TestTLSBounds(t *testing.T) {
	s := newShop(t)
	callers := []string{"", "good", "other-name", "other-host"}
	s.issue("other-name", nil, func(c *x509.Certificate) { c.Subject.CommonName = "nobody" })
	s.issue("other-host", nil, func(c *x509.Certificate) { c.DNSNames = []string{"n.invalid"} })
	newest := func(kind harness.Kind) string {
		port, web := harness.FreePort(), harness.FreePort()
		socket := filepath.Join(t.TempDir(), "s:1")
		m := harness.Prepare(t, kind,
			"--cert-file="+s.path("good.pem"), "--key-file="+s.path("good-key.pem"),
			"--trusted-ca-file="+s.path("ca.pem"), "--client-cert-auth",
			"--client-cert-allowed-hostname=a.example,m.example", "--tls-min-version=TLS1.3",
			"--listen-client-http-urls="+local("https", web))
		m.Flags = append(m.Flags, "--listen-client-urls="+m.ClientURL()+","+local("https", port)+
			",unixs://"+socket+",unix://"+socket+"2")
		if err := m.Start(); err != nil {
			return err.Error()
		}
		var lines []string
		// The port for gRPC alone speaks no HTTP/1: the handshake is all that can be compared.
		for _, line := range s.knocks("tcp", host(port), callers, "h2") {
			lines = append(lines, "gRPC: "+strings.Split(line, " request: ")[0])
		}
		lines = append(lines, s.knocks("tcp", host(web), callers)...)
		lines = append(lines, fetchTLS(local("https", web)+"/health", s.config("good")))
		for _, endpoint := range []string{local("https", port), "unixs://" + socket, "unix://" + socket + "2"} {
			args := []string{"--endpoints=" + endpoint}
			if !strings.HasPrefix(endpoint, "unix:") {
				args = append(append(args, "--insecure-skip-tls-verify"), s.ctlFlags("good")...)
			}
			lines = append(lines, "etcdctl: "+etcdctl(t, append(args, "put", "a", "b")...))
		}
		return joinLines(lines)
	}
	made := func(kind harness.Kind) string {
		port := harness.FreePort()
		m := harness.Prepare(t, kind, "--auto-tls", "--peer-auto-tls", "--tls-max-version=TLS1.2",
			"--self-signed-cert-validity=3",
			"--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_RSA_WITH_AES_128_CBC_SHA")
		m.Advertise = strings.Replace(m.PeerURL(), "http:", "https:", 1)
		m.Flags = append(m.Flags, "--listen-client-urls="+m.ClientURL()+","+local("https", port),
			"--listen-peer-urls="+m.Advertise)
		var lines []string
		for range 2 {
			if err := m.Start(); err != nil {
				return err.Error()
			}
			for _, kind := range []string{"client", "peer"} {
				lines = append(lines, describeMade(filepath.Join(m.Dir, "fixtures", kind)))
			}
			config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
			lines = append(lines, "TLS 1.3: "+knock("tcp", host(port), config))
			for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} {
				config := &tls.Config{InsecureSkipVerify: true, CipherSuites: []uint16{suite}, MaxVersion: tls.VersionTLS12}
				lines = append(lines, tls.CipherSuiteName(suite)+": "+knock("tcp", host(port), config))
			}
			lines = append(lines, "etcdctl: "+etcdctl(t, "--endpoints="+local("https", port),
				"--insecure-transport=false", "--insecure-skip-tls-verify", "put", "a", "b"))
			if err := m.Stop(); err != nil {
				return err.Error()
			}
		}
		return joinLines(lines)
	}
	compareTLS(t, both(newest))
	compareTLS(t, both(made))
}

// describeMade tells of a certificate that a member made what is not drawn by lot.
func describeMade(dir string) string {
	key, err := os.Stat(filepath.Join(dir, "key.pem"))
	if err != nil {
		return err.Error()
	}
	text, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		return err.Error()
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err.Error()
	}
	public := cert.PublicKey.(*ecdsa.PublicKey)
	return fmt.Sprint(key.Mode(), cert.Subject, cert.Issuer, cert.IsCA, cert.KeyUsage, cert.ExtKeyUsage,
		cert.IPAddresses, cert.DNSNames, cert.NotAfter.Sub(cert.NotBefore), public.Params().Name,
		cert.SignatureAlgorithm)
}

// secure turns the peer ports of a cluster to TLS.
func secure(c *harness.Cluster, flags ...string) {
	var initial []string
	for _, m := range c.Members {
		m.Advertise = strings.Replace(m.PeerURL(), "http:", "https:", 1)
		initial = append(initial, m.Name+"="+m.Advertise)
		m.Flags = append(slices.Clone(m.Flags), append(flags, "--listen-peer-urls="+m.Advertise)...)
	}
	for _, m := range c.Members {
		m.Initial = strings.Join(initial, ",")
	}
}

// TestTLSPeers runs a mixed cluster whose members know each other by certificates, and has strangers
// with every kind of certificate at the peer port of each product.
func TestTLSPeers(t *testing.T) {
	s := newShop(t)
	callers := s.callers()
	c := harness.NewCluster(t, false, []harness.Kind{harness.Ours, harness.Ours, harness.Real})
	secure(c, "--peer-cert-file="+s.path("good.pem"), "--peer-key-file="+s.path("good-key.pem"),
		"--peer-trusted-ca-file="+s.path("ca.pem"), "--peer-client-cert-auth",
		"--peer-cert-allowed-cn=someone,etcd", "--peer-crl-file="+s.path("crl.der"))
	c.Start(c.Members...)
	if _, err := c.Client().Put(context.Background(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	c.Agree(3)
	var out [2]string
	for _, m := range c.Members[1:] {
		address := strings.TrimPrefix(m.Advertise, "https://")
		lines := s.knocks("tcp", address, callers)
		out[m.Kind] = joinLines(append(lines, rejections(m.Log(), s.dir)...))
	}
	compareTLS(t, out)

	// Another certificate of all members, while they run; whoever comes back must use it.
	s.issue("good", nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0xa2) })
	for _, m := range c.Members {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
		c.Start(m)
	}
	if _, err := c.Client().Put(context.Background(), "a", "c"); err != nil {
		t.Fatal(err)
	}
	c.Agree(3)
	for _, m := range c.Members {
		if shown := s.presented(strings.TrimPrefix(m.Advertise, "https://")); shown != "a2" {
			t.Errorf("%s shows %s", m.Name, shown)
		}
	}
}

// TestTLSPeersOfTheirOwnMaking runs a mixed cluster whose members make their certificates.
func TestTLSPeersOfTheirOwnMaking(t *testing.T) {
	c := harness.NewCluster(t, false, []harness.Kind{harness.Ours, harness.Real, harness.Ours})
	secure(c, "--peer-auto-tls")
	c.Start(c.Members...)
	if _, err := c.Client().Put(context.Background(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	c.Agree(3)
}

// TestTLSRefusals compares the last words of starts that cannot be.
func TestTLSRefusals(t *testing.T) {
	s := newShop(t)
	s.issue("stray", nil, nil)
	cert, key, stray := s.path("good.pem"), s.path("good-key.pem"), s.path("stray-key.pem")
	for name, flags := range map[string][]string{
		"cipher":             {"--cipher-suites=FOO"},
		"version":            {"--tls-min-version=TLS1.1"},
		"order of versions":  {"--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"},
		"cipher for 1.3":     {"--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"},
		"peer without":       {"--listen-peer-urls=" + local("https", harness.FreePort())},
		"client without":     {"--listen-client-urls=https://127.0.0.1:2"},
		"socket without":     {"--listen-client-urls=unixs://s:1"},
		"metrics without":    {"--listen-metrics-urls=https://127.0.0.1:0"},
		"peer key missing":   {"--peer-cert-file=" + cert},
		"peer key mismatch":  {"--peer-cert-file=" + cert, "--peer-key-file=" + stray},
		"peer CA missing":    {"--peer-trusted-ca-file=/nope", "--peer-cert-file=" + cert, "--peer-key-file=" + key},
		"client key missing": {"--cert-file=" + cert, "https"},
		"client mismatch":    {"--cert-file=" + cert, "--key-file=" + stray, "https"},
		"client CA missing":  {"--cert-file=" + cert, "--key-file=" + key, "--trusted-ca-file=/nope", "https"},
		"half a dialler":     {"--cert-file=" + cert, "--key-file=" + key, "--client-cert-file=" + cert, "https"},
		"no years":           {"--auto-tls", "--self-signed-cert-validity=0", "https"},
		"file missing":       {"--cert-file=/nope", "--key-file=" + key, "https"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			out := both(func(kind harness.Kind) string {
				m := harness.Prepare(t, kind, slices.Clone(flags)...)
				if at := slices.Index(m.Flags, "https"); at >= 0 {
					m.Flags[at] = "--listen-client-urls=" + strings.Replace(m.ClientURL(), "http:", "https:", 1)
				}
				if err := m.Spawn(); err != nil {
					return err.Error()
				}
				select {
				case <-m.Exited():
				case <-time.After(harness.StartTimeout):
					m.Kill()
					return "it runs"
				}
				return fmt.Sprint("exit code ", m.ExitCode(), ": ", lastError(m.Log()))
			})
			compareTLS(t, out)
		})
	}
}

// lastError is the text of the last line that has one.
func lastError(log string) string {
	at := strings.LastIndex(log, `"error":"`)
	if at < 0 {
		return log
	}
	text := log[at+len(`"error":"`):]
	end := 0
	for end < len(text) && text[end] != '"' {
		if text[end] == '\\' {
			end++
		}
		end++
	}
	return text[:end]
}

// TestTLSHalfOpen holds many connections to our member half open; whoever wants to speak speaks, and
// what they take is bounded.
func TestTLSHalfOpen(t *testing.T) {
	const held = 1500
	s := newShop(t)
	port := harness.FreePort()
	m := harness.Prepare(t, harness.Ours, "--cert-file="+s.path("good.pem"),
		"--key-file="+s.path("good-key.pem"), "--trusted-ca-file="+s.path("ca.pem"))
	m.Flags = append(m.Flags, "--listen-client-urls="+m.ClientURL()+","+local("https", port))
	harness.MustStart(t, m)
	before, _, err := m.Memory()
	s.must(err)
	for i := range held {
		conn, err := net.DialTimeout("tcp", host(port), 5*time.Second)
		s.must(err)
		defer conn.Close()
		if i%2 == 0 {
			// The head of a handshake that never comes.
			_, _ = conn.Write([]byte{22, 3, 1, 2, 0, 1})
		}
	}
	for range 3 {
		args := append(s.ctlFlags("good"), "--endpoints="+local("https", port), "put", "a", "b")
		if told := etcdctl(t, args...); told != "OK" {
			t.Errorf("a put: %s", told)
		}
	}
	after, _, err := m.Memory()
	s.must(err)
	t.Logf("memory before %d MiB, after %d MiB", before, after)
	if grown := after - before; grown > 64 {
		t.Errorf("%d half-open connections take %d MiB", held, grown)
	}
}
