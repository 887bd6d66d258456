package compat

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// registry is where members find each other through a discovery service.
const registry = "/_etcd/registry/"

// foundBy sets the members up so that they find each other by these flags, and by no list.
func foundBy(c *harness.Cluster, flags ...string) {
	for _, m := range c.Members {
		m.Bare, m.Flags = true, append([]string{
			"--name=" + m.Name, "--data-dir=" + m.Dir,
			"--listen-client-urls=" + m.ClientURL(), "--advertise-client-urls=" + m.ClientURL(),
			"--listen-peer-urls=" + m.PeerURL(), "--initial-advertise-peer-urls=" + m.AdvertisedPeerURL(),
		}, flags...)
	}
}

func mustPut(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := client.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// checkCluster puts a key and finds all members in agreement.
func checkCluster(t *testing.T, c *harness.Cluster) {
	t.Helper()
	client := c.Client()
	mustPut(t, client, "a", "1")
	list, err := client.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range list.Members {
		names[m.Name] = true
	}
	if len(names) != len(c.Members) {
		t.Errorf("members: %v", list.Members)
	}
	c.SameHistory(c.Settle())
}

// TestBootstrapDiscovery has members of both products find each other through a discovery service of
// either product, with and without a password.
func TestBootstrapDiscovery(t *testing.T) {
	for _, one := range []struct {
		service harness.Kind
		members []harness.Kind
		auth    bool
	}{
		{harness.Real, []harness.Kind{harness.Ours, harness.Ours, harness.Real}, false},
		{harness.Ours, []harness.Kind{harness.Ours, harness.Real, harness.Ours}, false},
		{harness.Real, []harness.Kind{harness.Real, harness.Ours, harness.Ours}, true},
	} {
		t.Run(fmt.Sprintf("%v by %s, password %v", one.members, one.service, one.auth), func(t *testing.T) {
			t.Parallel()
			service := harness.Launch(t, one.service)
			client := service.Client()
			defer client.Close()
			mustPut(t, client, registry+"some-token/_config/size", "3")
			flags := []string{"--discovery-token=some-token",
				// The first one is dead: the next one is asked.
				"--discovery-endpoints=127.0.0.1:1," + service.Endpoint()}
			if one.auth {
				protect(t, client)
				flags = append(flags, "--discovery-user=root", "--discovery-password=secret")
			}
			c := harness.NewCluster(t, false, one.members)
			foundBy(c, flags...)
			c.Start(c.Members...)
			checkCluster(t, c)
			// With a log, the service is not asked again, and that is said.
			for _, m := range c.Members[:2] {
				harness.MustStop(t, m)
			}
			harness.MustStop(t, service)
			c.Start(c.Members[:2]...)
			for _, m := range c.Members[:2] {
				line := logged(t, m, "discovery token is ignored since cluster already initialized; valid logs are found")
				if want := filepath.Join(m.Dir, "member", "wal"); line["wal-dir"] != want {
					t.Errorf("%s: %v is not in %s", m.Kind, line["wal-dir"], want)
				}
			}
		})
	}
}

// TestBootstrapInterrupted ends members while they wait for the others; they begin again, as the same.
func TestBootstrapInterrupted(t *testing.T) {
	service := harness.Launch(t, harness.Real)
	client := service.Client()
	defer client.Close()
	mustPut(t, client, registry+"t/_config/size", "3")
	c := harness.NewCluster(t, false, []harness.Kind{harness.Real, harness.Ours, harness.Ours})
	foundBy(c, "--discovery-token=t", "--discovery-endpoints="+service.Endpoint())
	ends := map[string]bool{}
	for _, m := range c.Members[:2] {
		if err := m.Spawn(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, m, "waiting for peers from discovery service")
		_ = syscall.Kill(m.Pid(), syscall.SIGTERM)
		select {
		case <-m.Exited():
		case <-time.After(harness.StopTimeout):
			t.Fatalf("%s goes on after SIGTERM", m.Kind)
		}
		ends[m.ExitText()] = true
	}
	if len(ends) != 1 {
		t.Errorf("they end differently: %v", ends)
	}
	c.Start(c.Members...)
	checkCluster(t, c)
}

// waitFor waits until a member has logged this message.
func waitFor(t *testing.T, m *harness.Member, msg string) {
	t.Helper()
	for deadline := time.Now().Add(harness.StartTimeout); ; time.Sleep(10 * time.Millisecond) {
		if strings.Contains(m.LastLog(), `"msg":"`+msg+`"`) {
			return
		}
		if time.Now().After(deadline) || !m.Running() {
			t.Fatalf("%s does not say %q\n%s", m.Kind, msg, m.LogTail(5))
		}
	}
}

// protect gives a service the user root.
func protect(t *testing.T, client *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	_, err := client.UserAdd(ctx, "root", "secret")
	if err == nil {
		_, err = client.RoleAdd(ctx, "root")
	}
	if err == nil {
		_, err = client.UserGrantRole(ctx, "root", "root")
	}
	if err == nil {
		_, err = client.AuthEnable(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// logged is the last line with this message.
func logged(t *testing.T, m *harness.Member, msg string) map[string]any {
	t.Helper()
	var last map[string]any
	for _, line := range splitLines(m.LastLog()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == msg {
			last = entry
		}
	}
	if last == nil {
		t.Errorf("%s does not say %q\n%s", m.Kind, msg, m.LogTail(10))
	}
	return last
}

// startError is why a member does not start, as its log tells it first, and how the process ends.
func startError(t *testing.T, m *harness.Member) string {
	t.Helper()
	// etcd would verify the directory that it has just begun, and end before it tells why.
	m.Env = append(m.Env, "ETCD_VERIFY=")
	if err := m.Spawn(); err != nil {
		return err.Error()
	}
	select {
	case <-m.Exited():
	case <-time.After(harness.StartTimeout):
		m.Kill()
		return "goes on\n" + m.LogTail(5)
	}
	for _, line := range splitLines(m.LastLog()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		switch entry["msg"] {
		case "failed to verify flags", "failed to bootstrap; discovery token was already used", "discovery failed":
			return fmt.Sprintf("%s: %v", m.ExitText(), entry["error"])
		}
	}
	return m.ExitText() + "\n" + m.LogTail(5)
}

// TestBootstrapErrors compares why members do not find each other.
func TestBootstrapErrors(t *testing.T) {
	service := harness.Launch(t, harness.Real)
	locked := harness.Launch(t, harness.Real)
	client := service.Client()
	defer client.Close()
	for key, value := range map[string]string{
		"zero/_config/size": "0", "word/_config/size": "three", "minus/_config/size": "-1",
		"full/_config/size": "1", "full/members/1": "other=http://127.0.0.1:1",
		"url/_config/size": "2", "url/members/1": "other=nonsense",
		"twice/_config/size": "2", "right/_config/size": "3",
	} {
		mustPut(t, client, registry+key, value)
	}
	port := harness.FreePort()
	peer := fmt.Sprintf("http://127.0.0.1:%d", port)
	mustPut(t, client, registry+"twice/members/1", "other="+peer)
	lockedClient := locked.Client()
	defer lockedClient.Close()
	protect(t, lockedClient)
	by := func(token string) []string {
		return []string{"--discovery-endpoints=" + service.Endpoint(), "--discovery-token=" + token}
	}
	cases := map[string][]string{
		"no size":         by("nothing"),
		"size zero":       by("zero"),
		"size a word":     by("word"),
		"size negative":   by("minus"),
		"full":            by("full"),
		"other URL bad":   by("url"),
		"other URL equal": by("twice"),
		"existing":        append(by("right"), "--initial-cluster-state=existing"),
		"wrong password": {"--discovery-endpoints=" + locked.Endpoint(), "--discovery-token=t",
			"--discovery-user=root", "--discovery-password=wrong"},
		"two ways":           append(by("right"), "--discovery-srv=example.com"),
		"and a list":         append(by("right"), "--initial-cluster=m1="+peer),
		"SRV and a list":     {"--discovery-srv=example.com", "--initial-cluster=m1=" + peer},
		"no token":           {"--discovery-endpoints=" + service.Endpoint()},
		"no endpoints":       {"--discovery-token=t"},
		"empty endpoint":     {"--discovery-endpoints=a:1,,b:1", "--discovery-token=t"},
		"no list":            {"--initial-cluster="},
		"a service name":     {"--discovery-srv-name=a"},
		"a list, not listed": {"--initial-cluster=other=" + peer},
	}
	for name, flags := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out [2]string
			// One after the other: both advertise the same URLs.
			for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
				m := harness.NewMember(kind, t.TempDir())
				t.Cleanup(m.Kill)
				m.Bare, m.Flags = true, append([]string{
					"--name=m1", "--data-dir=" + m.Dir,
					"--listen-client-urls=" + m.ClientURL(), "--advertise-client-urls=" + m.ClientURL(),
					"--listen-peer-urls=" + m.PeerURL(), "--initial-advertise-peer-urls=" + peer,
				}, flags...)
				out[kind] = startError(t, m)
			}
			if out[0] != out[1] {
				t.Error(sideBySide(out[0], out[1]))
			}
			t.Log(out[0])
		})
	}
}

// TestBootstrapNotify compares what systemd hears, by a socket file and by an abstract one.
func TestBootstrapNotify(t *testing.T) {
	for _, where := range []string{"file", "abstract", "missing"} {
		t.Run(where, func(t *testing.T) {
			out := both(func(kind harness.Kind) string { return notified(t, kind, where) })
			if out[0] != out[1] {
				t.Error(sideBySide(out[0], out[1]))
			}
			t.Log(out[0])
		})
	}
}

func notified(t *testing.T, kind harness.Kind, where string) string {
	dir := t.TempDir()
	address := filepath.Join(dir, "notify")
	if where == "abstract" {
		address = fmt.Sprintf("@quorate-test-%d-%s", os.Getpid(), kind)
	}
	m := harness.NewMember(kind, dir)
	t.Cleanup(m.Kill)
	m.Env = []string{"NOTIFY_SOCKET=" + address}
	if where == "missing" {
		// Nobody hears it: the member serves all the same.
		if err := m.Start(); err != nil {
			return err.Error()
		}
		waitFor(t, m, "failed to notify systemd for readiness")
		return stopped(m)
	}
	socket, err := listenNotify(address)
	if err != nil {
		return err.Error()
	}
	defer socket.Close()
	heard := make(chan string, 10)
	go func() {
		defer close(heard)
		buffer := make([]byte, 4096)
		for {
			n, err := socket.Read(buffer)
			if err != nil {
				return
			}
			heard <- string(buffer[:n])
		}
	}()
	if err := m.Spawn(); err != nil {
		return err.Error()
	}
	var lines []string
	select {
	case first := <-heard:
		lines = append(lines, first)
	case <-time.After(harness.StartTimeout):
		return "not ready\n" + m.LogTail(5)
	}
	// Ready means ready: the first request after it is answered.
	client := m.Client()
	_, err = client.Get(t.Context(), "a")
	client.Close()
	lines = append(lines, fmt.Sprint("get: ", err), stopped(m))
	socket.Close()
	for line := range heard {
		lines = append(lines, line)
	}
	return joinLines(lines)
}

func stopped(m *harness.Member) string {
	if err := m.Stop(); err != nil {
		return err.Error()
	}
	return " " + m.ExitText()
}

// TestBootstrapDirectory compares who may read the data directory, and what is said when others may.
func TestBootstrapDirectory(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"new": 0, "private": 0o700, "open": 0o755, "group": 0o750 | os.ModeSetgid} {
		t.Run(name, func(t *testing.T) {
			out := both(func(kind harness.Kind) string {
				m := harness.Prepare(t, kind)
				if mode != 0 {
					if err := os.Mkdir(m.Dir, 0o700); err != nil {
						return err.Error()
					}
					if err := os.Chmod(m.Dir, mode); err != nil {
						return err.Error()
					}
				}
				if err := m.Start(); err != nil {
					return err.Error()
				}
				var lines []string
				_ = filepath.WalkDir(m.Dir, func(path string, entry os.DirEntry, err error) error {
					if info, e := os.Stat(path); err == nil && e == nil && !strings.HasSuffix(path, ".tmp") {
						lines = append(lines, fmt.Sprint(info.Mode(), strings.TrimPrefix(path, m.Dir)))
					}
					return nil
				})
				if mode != 0 && mode != 0o700 {
					said := fmt.Sprint(logged(t, m, "check file permission")["error"])
					lines = append(lines, strings.ReplaceAll(said, m.Dir, "DIR"))
				} else if strings.Contains(m.LastLog(), "check file permission") {
					lines = append(lines, "said something of permissions")
				}
				return joinLines(lines)
			})
			if out[0] != out[1] {
				t.Error(sideBySide(out[0], out[1]))
			}
			t.Log(out[0])
		})
	}
}

// TestBootstrapSocket compares the file of a unix socket: who may use it, what a killed member leaves,
// and that the next start is not hindered by it.
func TestBootstrapSocket(t *testing.T) {
	out := both(func(kind harness.Kind) string {
		dir := t.TempDir()
		socket := filepath.Join(dir, "clients:1")
		m := harness.Prepare(t, kind)
		m.Flags = append(m.Flags, "--listen-client-urls="+m.ClientURL()+",unix://"+socket)
		var lines []string
		for range 2 {
			if err := m.Start(); err != nil {
				return err.Error()
			}
			info, err := os.Stat(socket)
			if err != nil {
				return err.Error()
			}
			lines = append(lines, fmt.Sprint(info.Mode(), " ", asked("unix:"+socket)))
			m.Kill()
			_, err = os.Stat(socket)
			lines = append(lines, fmt.Sprint("left behind: ", err == nil))
		}
		return joinLines(lines)
	})
	if out[0] != out[1] {
		t.Error(sideBySide(out[0], out[1]))
	}
	t.Log(out[0])
}
