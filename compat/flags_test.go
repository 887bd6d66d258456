package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"quorate/compat/harness"
)

// flagRow is a flag as a help text has it.
type flagRow struct {
	value   string
	isTold  bool // the text has a value
	isGiven bool // the product takes the flag
}

var helpRow = regexp.MustCompile(`^  --([a-z0-9-]+)(?: +(?:'(.*)'|([^' ].*)))?$`)

func parseHelp(help string) map[string]flagRow {
	rows := map[string]flagRow{}
	for _, line := range splitLines(help) {
		if m := helpRow.FindStringSubmatch(line); m != nil {
			rows[m[1]] = flagRow{value: m[2] + m[3], isTold: strings.Contains(line, "'") || m[3] != ""}
		}
	}
	return rows
}

// flagBin is the product's binary.
func flagBin(t testing.TB, kind harness.Kind) string {
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

// flagEnd is how a process that was not to serve ended.
type flagEnd struct {
	code           int
	stdout, stderr string
	serves         bool // it had to be ended
}

// startGrace is how long a process may take to refuse.
const startGrace = 8 * time.Second

// flagRun runs the product until it ends by itself or says that it serves.
func flagRun(t testing.TB, kind harness.Kind, env []string, args ...string) flagEnd {
	t.Helper()
	bin := flagBin(t, kind)
	ctx, cancel := context.WithTimeout(t.Context(), startGrace)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(harness.CleanEnv(), env...)
	var stdout bytes.Buffer
	stderr := &servingBuffer{cancel: cancel}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		t.Fatal(err)
	}
	return flagEnd{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), ctx.Err() != nil}
}

// servingBuffer ends the process when it says that it has started its member.
type servingBuffer struct {
	mu     sync.Mutex
	text   bytes.Buffer
	cancel func()
}

func (b *servingBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bytes.Contains(p, []byte("ready to serve client requests")) {
		b.cancel()
	}
	return b.text.Write(p)
}

func (b *servingBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// told is the exit code and the one line that says why.
func (e flagEnd) told() string {
	if e.serves {
		return "serves"
	}
	why := ""
	for _, line := range splitLines(e.stderr) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil {
			if why == "" && line != "" {
				why = strings.TrimPrefix(line, "panic: ")
			}
			continue
		}
		level := fmt.Sprint(entry["level"])
		if entry["msg"] == "failed to verify flags" || level == "fatal" || level == "panic" {
			why = fmt.Sprintf("%v: %v", entry["msg"], entry["error"])
			if variable, ok := entry["environment-variable"]; ok {
				why += fmt.Sprint(" ", variable)
			}
		}
	}
	return fmt.Sprintf("%d %s", e.code, maskTold(why))
}

var (
	yamlReason = regexp.MustCompile(`(error converting YAML to JSON: yaml: ).*`)
	jsonReason = regexp.MustCompile(`(improperly formatted log rotation config: ).*`)
	ourWord    = regexp.MustCompile(` \((--log-level|cors)\)$`)
	portWord   = regexp.MustCompile(`127\.0\.0\.1:\d+`)
)

// maskTold takes away what is another library's wording, or what we add behind etcd's.
func maskTold(why string) string {
	why = yamlReason.ReplaceAllString(why, "${1}REASON")
	why = jsonReason.ReplaceAllString(why, "${1}REASON")
	why = portWord.ReplaceAllString(why, "ADDRESS")
	return ourWord.ReplaceAllString(why, "")
}

// hiddenFlags are known to etcd and not listed.
var hiddenFlags = []string{"config-file", "cluster-active-size", "cluster-remove-delay",
	"cluster-sync-interval", "config", "force", "max-result-buffer", "max-retry-attempts",
	"peer-heartbeat-interval", "peer-election-timeout", "retry-interval", "snapshot", "v", "vv"}

// switches are flags that need no value; their texts do not always say so.
var switches = map[string]bool{"memory-mlock": true, "enable-grpc-gateway": true}

// aValue is one that the flag takes.
func aValue(name string, row flagRow) string {
	switch {
	case row.value == "math.MaxUint32":
		return "4294967295"
	case name == "feature-gates":
		return "InitialCorruptCheck=true"
	case strings.HasSuffix(name, "-urls") && row.value == "":
		return "http://127.0.0.1:1"
	case row.isTold && row.value != "" && !strings.HasPrefix(row.value, "$"):
		return row.value
	case switches[name], slices.Contains(hiddenFlags, name) && name != "config-file":
		return "false"
	case name == "bootstrap-defrag-threshold-megabytes", name == "snapshot-catchup-entries":
		return "7"
	case name == "compaction-sleep-interval", name == "downgrade-check-time", name == "backend-batch-interval":
		return "7ms"
	}
	return "x"
}

// TestFlagsTable takes every flag from etcd's own help: ours must know it, with the same default,
// unless COMPAT.md has a line about it.
func TestFlagsTable(t *testing.T) {
	flagBin(t, harness.Ours) // so that it fails here, where it may
	listed := both(func(kind harness.Kind) map[string]flagRow {
		return parseHelp(flagRun(t, kind, nil, "--help").stdout)
	})
	if len(listed[harness.Real]) < 100 {
		t.Fatalf("etcd's help has only %d flags", len(listed[harness.Real]))
	}
	compat, err := os.ReadFile(filepath.Join(harness.Root(), "..", "COMPAT.md"))
	if err != nil {
		t.Fatal(err)
	}
	isNoted := func(name string) bool { return strings.Contains(string(compat), "`--"+name+"`") }
	for name, row := range listed[harness.Real] {
		ours, isListed := listed[harness.Ours][name]
		// etcd's help has two flags that etcd does not.
		isOld := name == "discovery" || name == "discovery-proxy"
		if !isListed && !isOld && !isNoted(name) {
			t.Errorf("--%s is not in our help", name)
		}
		if isListed && row.isTold && row.value != ours.value && !isNoted(name) {
			t.Errorf("--%s is %q by default, ours %q", name, row.value, ours.value)
		}
	}
	for name := range listed[harness.Ours] {
		if _, ok := listed[harness.Real][name]; !ok && !isNoted(name) {
			t.Errorf("--%s is in our help and not in etcd's", name)
		}
	}
	names := slices.Concat(flagNames(listed[harness.Real]), hiddenFlags)
	for _, name := range names {
		arg := fmt.Sprintf("--%s=%s", name, aValue(name, listed[harness.Real][name]))
		ends := both(func(kind harness.Kind) string {
			end := flagRun(t, kind, nil, arg, "--version")
			return fmt.Sprint(end.code, " ", strings.HasPrefix(end.stdout, "etcd Version: 3.7.1\n"))
		})
		isOld := name == "discovery" || name == "discovery-proxy"
		if ends[harness.Ours] != "0 true" || (ends[harness.Real] != "0 true" && !isOld) {
			t.Errorf("%s --version: etcd %s, ours %s", arg, ends[harness.Real], ends[harness.Ours])
		}
	}
}

func flagNames(rows map[string]flagRow) []string {
	var names []string
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestFlagsEnvironment gives every flag as a variable: both products say that they used it.
func TestFlagsEnvironment(t *testing.T) {
	rows := parseHelp(flagRun(t, harness.Real, nil, "--help").stdout)
	var env []string
	for _, name := range slices.Concat(flagNames(rows), hiddenFlags) {
		value := aValue(name, rows[name])
		switch name {
		case "config-file", "discovery", "discovery-proxy":
			continue
		}
		variable := "ETCD_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		env = append(env, variable+"="+value)
	}
	env = append(env, "ETCD_VERSION=3", "ETCD_NONSENSE=1", "ETCDCTL_API=3")
	flagBin(t, harness.Ours)
	out := both(func(kind harness.Kind) string {
		var said []string
		// Of more than a hundred equal lines in a second etcd drops most.
		half := len(env) / 2
		stderr := flagRun(t, kind, append(env[:half:half], "ETCD_HEARTBEAT_INTERVAL=0")).stderr +
			flagRun(t, kind, append(env[half:], "ETCD_HEARTBEAT_INTERVAL=0")).stderr
		for _, line := range splitLines(stderr) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) != nil {
				continue
			}
			switch entry["msg"] {
			case "recognized and used environment variable":
				value := entry["variable-value"]
				switch entry["variable-name"] {
				case "ETCD_DISCOVERY_PASSWORD", "ETCD_DISCOVERY_USER":
					// Shown by etcd alone: number 46 of COMPAT.md.
					if shown := map[bool]string{true: "x", false: "***"}[kind == harness.Real || realTwice()]; value != shown {
						t.Errorf("%v is shown as %v by %v", entry["variable-name"], value, kind)
					}
					value = "hidden"
				}
				said = append(said, fmt.Sprint(entry["variable-name"], "=", value))
			case "unrecognized environment variable", "cannot set special environment variable":
				said = append(said, fmt.Sprint(entry["msg"], entry["environment-variable"], entry["key"]))
			}
		}
		slices.Sort(said)
		return joinLines(said)
	})
	if strings.Count(out[harness.Real], "\n") < 100 {
		t.Errorf("etcd has used too few variables:\n%s", out[harness.Real])
	}
	if out[0] != out[1] {
		t.Error(sideBySide(out[0], out[1]))
	}
}

// badFlagSets: what cannot be, one command line a line.
var badFlagSets = []string{
	"--nosuch", "-nosuch=1", "--experimental-name=a", "---x", "-=3", "--name", "foo", "--pre-vote false",
	"--heartbeat-interval=abc", "--heartbeat-interval=-1", "--heartbeat-interval=99999999999999999999",
	"--heartbeat-interval=0", "--heartbeat-interval=300", "--election-timeout=0", "--election-timeout=60000",
	"--snapshot-count=1.5", "--max-wals=x", "--quota-backend-bytes=1e3", "--quota-backend-bytes=9223372036854775808",
	"--max-concurrent-streams=x", "--max-concurrent-streams=4294967296", "--max-learners=x",
	"--pre-vote=maybe", "--enable-pprof=2", "--memory-mlock=x", "--client-cert-auth=x",
	"--grpc-keepalive-min-time=5", "--corrupt-check-time=xx", "--warning-apply-duration=1y",
	"--compact-hash-check-time=0", "--initial-cluster-state=foo", "--discovery-fallback=foo",
	"--discovery-fallback=proxy", "--v2-deprecation=not-yet",
	"--listen-client-urls=ftp://127.0.0.1:1", "--listen-peer-urls=http://127.0.0.1",
	"--listen-peer-urls=http://127.0.0.1:1/path", "--listen-client-urls=", "--listen-metrics-urls=:1",
	"--listen-peer-urls=http://example.com:1", "--listen-client-urls=http://127.0.0.1:1",
	"--listen-metrics-urls=http://example.com:1", "--listen-client-http-urls=http://example.com:1",
	"--initial-advertise-peer-urls=http://:1", "--advertise-client-urls=http://:1",
	"--auto-compaction-mode=foo", "--auto-compaction-mode=", "--auto-compaction-retention=xx",
	"--auto-compaction-retention=1y", "--logger=foo", "--logger=capnslog", "--log-level=foo",
	"--log-format=foo", "--log-outputs=a,default",
	"--enable-log-rotation", "--enable-log-rotation --log-outputs=a,b",
	"--enable-log-rotation --log-outputs=a --log-rotation-config-json=x",
	`--enable-log-rotation --log-outputs=a --log-rotation-config-json={"maxsize":"a"}`,
	"--feature-gates=Foo=true", "--feature-gates=InitialCorruptCheck", "--feature-gates=InitialCorruptCheck=x",
	"--feature-gates=LeaseCheckpointPersist=true", "--cors=foo",
	"--discovery-srv=a.invalid --initial-cluster=default=http://localhost:2380",
	"--discovery-token=a", "--discovery-endpoints=http://127.0.0.1:1",
	"--discovery-token=a --discovery-endpoints=http://127.0.0.1:1,,",
	"--discovery-srv=a.invalid --discovery-token=a --discovery-endpoints=http://127.0.0.1:1",
	"--enable-distributed-tracing --distributed-tracing-sampling-rate=-1",
	"--enable-distributed-tracing --distributed-tracing-sampling-rate=1000001",
	"--initial-cluster=other=http://127.0.0.1:1", "--initial-cluster=x",
	"--initial-cluster=default=http://127.0.0.1:2389", "--initial-cluster=", "--config-file=/nope",
	"--config-file=/", "--max-wals=-1"}

// badFiles: configuration files that cannot be.
var badFiles = []string{
	"heartbeat-interval: abc", "heartbeat-interval: -1", "heartbeat-interval: 1.5", "heartbeat-interval: 0",
	"heartbeat-interval: 18446744073709551616", "name: 5", "name: [a]", "name: {a: b}", "name: n", "name: 0x10",
	"NAME: 5", "pre-vote: 1", "pre-vote: \"yes\"", "log-outputs: a", "log-outputs: [a, 1]", "log-outputs: [a, default]",
	"cipher-suites: [1]", "max-concurrent-streams: 99999999999", "quota-backend-bytes: 99999999999999999999",
	"quota-backend-bytes: 9223372036854775808", "grpc-keepalive-interval: 5s", "socket-options: true",
	"socket-options: {reuse-port: 3}", "peer-transport-security: x", "peer-transport-security: ~",
	"client-transport-security: {cert-file: 5}", "client-transport-security: {allowed-cn: x}",
	"discovery-config: {token: 5}", "discovery-config: {token: a}", "discovery-config: {client: {endpoints: x}}",
	"discovery-config: {token: a, client: {endpoints: [\"\"]}}",
	"discovery-config: {client: {secure: {insecure-transport: 1}}}", "discovery-config: {client: {auth: 1}}",
	"- a", "abc", "5", "name: a: b", "name: \"a", "\tname: b", "{\"name\": 1", "a: [1", "a: *x",
	"max-learners: abc", "v2-deprecation: 5", "feature-gates: Foo=true", "feature-gates: {CompactHashCheck: true}",
	"feature-gates: LeaseCheckpoint", "initial-cluster-state: foo", "listen-client-urls: ftp://127.0.0.1:1",
	"listen-peer-urls: foo", "initial-advertise-peer-urls: foo", "advertise-client-urls: foo",
	"listen-metrics-urls: foo", "listen-client-http-urls: foo", "listen-metrics-urls: 5", "cors: foo",
	"log-level: foo", "logger: capnslog", "log-format: foo", "enable-log-rotation: true",
	"auto-compaction-retention: 5", "auto-compaction-retention: xx", "auto-compaction-mode: foo",
	"discovery-srv: a.invalid\ninitial-cluster: default=http://localhost:2381",
	"name: x\nheartbeat-interval: a\nelection-timeout: b", "compact-hash-check-time: 0",
	"enable-distributed-tracing: true\ndistributed-tracing-sampling-rate: -1", "initial-cluster: ''",
	"x: &a {cert-file: 7}\nclient-transport-security:\n  <<: *a\n",
}

// TestFlagsRefused compares what is refused: the exit code, and the line that says why.
func TestFlagsRefused(t *testing.T) {
	flagBin(t, harness.Ours)
	var jobs []func() error
	differ := func(what string, end func(kind harness.Kind) flagEnd) func() error {
		return func() error {
			out := both(func(kind harness.Kind) string { return end(kind).told() })
			if out[harness.Real] == "serves" {
				return fmt.Errorf("%q: etcd serves", what)
			}
			if out[0] != out[1] {
				return fmt.Errorf("%q:\n   etcd: %s\nquorate: %s", what, out[0], out[1])
			}
			return nil
		}
	}
	for _, line := range badFlagSets {
		args := strings.Fields(line)
		if !strings.Contains(line, "-urls") { // what is refused late has ports of its own
			args = append(ownPorts("--", "="), args...)
		}
		jobs = append(jobs, differ(line, func(kind harness.Kind) flagEnd { return flagRun(t, kind, nil, args...) }))
	}
	for i, text := range badFiles {
		file := filepath.Join(t.TempDir(), fmt.Sprintf("%d.yml", i))
		if strings.Contains(text, "retention") || strings.Contains(text, "''") {
			text += "\n" + joinLines(ownPorts("", ": "))
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, differ(text, func(kind harness.Kind) flagEnd {
			return flagRun(t, kind, nil, "--config-file", file)
		}))
	}
	for _, env := range []string{"ETCD_SNAPSHOT_COUNT=abc", "ETCD_LISTEN_PEER_URLS=foo", "ETCD_CONFIG_FILE=/nope",
		"ETCD_HEARTBEAT_INTERVAL=0", "ETCD_FEATURE_GATES=Foo=true", "ETCD_NAME=b"} {
		jobs = append(jobs, differ(env, func(kind harness.Kind) flagEnd {
			return flagRun(t, kind, []string{env}, "--name=a", "--heartbeat-interval=0")
		}))
	}
	for _, err := range parallel(4, jobs) {
		t.Error(err)
	}
}

// ownPorts are what to listen on, so that members do not meet.
func ownPorts(before, between string) []string {
	client := fmt.Sprintf("http://127.0.0.1:%d", harness.FreePort())
	return []string{before + "listen-client-urls" + between + client,
		before + "advertise-client-urls" + between + client,
		before + "listen-peer-urls" + between + fmt.Sprintf("http://127.0.0.1:%d", harness.FreePort())}
}

// parallel runs jobs side by side and returns what failed.
func parallel(at int, jobs []func() error) []error {
	var mu sync.Mutex
	var failed []error
	var wait sync.WaitGroup
	places := make(chan struct{}, at)
	for _, job := range jobs {
		wait.Add(1)
		places <- struct{}{}
		go func() {
			defer func() { <-places; wait.Done() }()
			if err := job(); err != nil {
				mu.Lock()
				failed = append(failed, err)
				mu.Unlock()
			}
		}()
	}
	wait.Wait()
	return failed
}

// goodFlags are values that mean something, all at once.
var goodFlags = []string{"--snapshot-count=0x100", "--heartbeat-interval=50", "--election-timeout=0b1111101000",
	"--initial-election-tick-advance=false", "--max-snapshots=3", "--max-wals=1_0", "--quota-backend-bytes=123456789",
	"--backend-bbolt-freelist-type=array", "--backend-batch-interval=50ms", "--backend-batch-limit=100",
	"--max-txn-ops=64", "--max-request-bytes=2_000_000", "--max-concurrent-streams=077",
	"--grpc-keepalive-min-time=1s", "--grpc-keepalive-interval=1h2m3.5s", "--grpc-keepalive-timeout=10s",
	"--socket-reuse-port", "--socket-reuse-address=T", "--enable-grpc-gateway=false", "--raft-read-timeout=6s",
	"--raft-write-timeout=1s", "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=1",
	"--feature-gates=AllAlpha=true,AllBeta=true", "--initial-cluster-token=other", "--strict-reconfig-check=false",
	"--pre-vote=0", "--auto-compaction-retention=90m", "--auto-compaction-mode=periodic", "--v2-deprecation=gone",
	"--discovery-fallback=exit", "--discovery-dial-timeout=1s", "--discovery-insecure-transport=false",
	"--cert-file=", "--client-cert-auth=false", "--auto-tls=F", "--peer-auto-tls=false", "--self-signed-cert-validity=2",
	"--tls-min-version=TLS1.2", "--tls-max-version=TLS1.3", "--cors=http://a.example:1,http://b.example:1",
	"--host-whitelist=a,b,127.0.0.1,localhost", "--auth-token=simple", "--bcrypt-cost=4", "--auth-token-ttl=60",
	"--enable-pprof=false", "--metrics=basic", "--logger=zap", "--log-outputs=stderr", "--log-level=info",
	"--log-format=json", "--enable-log-rotation=false", "--warning-unary-request-duration=1s",
	"--enable-distributed-tracing=false", "--distributed-tracing-sampling-rate=10", "--snapshot-catchup-entries=10",
	"--corrupt-check-time=1h", "--compact-hash-check-time=30s", "--compaction-batch-limit=10",
	"--compaction-sleep-interval=1ms", "--watch-progress-notify-interval=5s", "--warning-apply-duration=200ms",
	"--downgrade-check-time=1s", "--bootstrap-defrag-threshold-megabytes=1", "--max-learners=2",
	"--listen-metrics-urls=", "--unsafe-no-fsync", "--cluster-active-size=9", "--vv", "--v=false"}

// startFields are what a member says of its configuration when it starts.
func startFields(t testing.TB, m *harness.Member) map[string]string {
	t.Helper()
	for _, line := range splitLines(m.LastLog()) {
		var entry map[string]json.RawMessage
		if json.Unmarshal([]byte(line), &entry) != nil || string(entry["msg"]) != `"starting an etcd server"` {
			continue
		}
		fields := map[string]string{}
		for name, value := range entry {
			text := portWord.ReplaceAllString(string(value), "ADDRESS")
			fields[name] = strings.ReplaceAll(text, filepath.Dir(m.Dir), "DIR")
		}
		return fields
	}
	t.Errorf("%s does not say how it starts\n%s", m.Kind, m.LogTail(20))
	return nil
}

// saidDifferently are fields of the start that are not about the configuration, or that are
// rightly different.
var saidDifferently = []string{"ts", "caller", "git-sha", "go-version", "go-os", "go-arch", "quorate-version",
	"max-cpu-set", "max-cpu-available"}

// compareStarts compares what both say of their configuration, in the fields that both have.
func compareStarts(t testing.TB, pair [2]*harness.Member) {
	t.Helper()
	said := [2]map[string]string{startFields(t, pair[0]), startFields(t, pair[1])}
	compared := 0
	for name, etcd := range said[harness.Real] {
		ours, ok := said[harness.Ours][name]
		if slices.Contains(saidDifferently, name) || !ok {
			continue
		}
		compared++
		if etcd != ours {
			t.Errorf("%s: etcd %s, ours %s", name, etcd, ours)
		}
	}
	if compared < 25 {
		t.Errorf("only %d fields are told by both", compared)
	}
}

// TestFlagsAccepted starts both with values that mean something, by flags, by variables, by a file
// with every key, and compares what they say of their configuration.
func TestFlagsAccepted(t *testing.T) {
	if testing.Short() {
		t.Skip("starts members")
	}
	t.Run("defaults", func(t *testing.T) { compareStarts(t, startPair(t, nil)) })
	t.Run("flags", func(t *testing.T) {
		compareStarts(t, startPair(t, func(m *harness.Member) { m.Flags = goodFlags }))
	})
	t.Run("variables", func(t *testing.T) {
		compareStarts(t, startPair(t, func(m *harness.Member) {
			for _, arg := range append(m.Args(), goodFlags...) {
				name, value, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
				if !ok {
					value = "true"
				}
				variable := "ETCD_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
				m.Env = append(m.Env, variable+"="+value)
			}
			m.Bare = true
		}))
	})
	t.Run("file", func(t *testing.T) {
		compareStarts(t, startPair(t, func(m *harness.Member) {
			byFile(t, m, everyKey)
		}))
	})
	t.Run("file of 3.4", func(t *testing.T) {
		compareStarts(t, startPair(t, func(m *harness.Member) {
			byFile(t, m, oldKeys)
		}))
	})
}

func startPair(t *testing.T, prepare func(*harness.Member)) [2]*harness.Member {
	t.Helper()
	var pair [2]*harness.Member
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		m := harness.Prepare(t, kind)
		if prepare != nil {
			prepare(m)
		}
		pair[kind] = m
	}
	for _, err := range parallel(2, []func() error{pair[0].Start, pair[1].Start}) {
		t.Fatal(err)
	}
	return pair
}

// byFile gives the member's own flags, and these lines, by a configuration file.
func byFile(t testing.TB, m *harness.Member, keys string) string {
	t.Helper()
	lines := []string{keys}
	for _, arg := range m.Args() {
		name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !strings.Contains("\n"+keys, "\n"+name+":") {
			lines = append(lines, name+": \""+value+"\"")
		}
	}
	file := filepath.Join(filepath.Dir(m.Dir), "etcd.conf.yml")
	if err := os.WriteFile(file, []byte(joinLines(lines)), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Bare, m.Flags = true, []string{"--config-file=" + file, "--name=ignored", "--heartbeat-interval=0"}
	return file
}

// everyKey has every key of 3.7.1 with a value, but for the ports.
const everyKey = `# every key
wal-dir: ""
snapshot-count: 5000
snapshot-catchup-entries: 4000
max-snapshots: 4
max-wals: 3
heartbeat-interval: 80
election-timeout: 900
initial-election-tick-advance: true
backend-batch-interval: 50000000
backend-batch-limit: 100
backend-bbolt-freelist-type: map
quota-backend-bytes: 987654321
max-txn-ops: 99
max-request-bytes: 1500000
max-concurrent-streams: 1000
self-signed-cert-validity: 0
cipher-suites: []
tls-min-version: TLS1.2
tls-max-version: ""
discovery-srv: ""
discovery-srv-name: ""
initial-cluster-token: filed
strict-reconfig-check: yes
auto-compaction-mode: revision
auto-compaction-retention: "1000"
grpc-keepalive-min-time: 5000000000
grpc-keepalive-interval: 7200000000000
grpc-keepalive-timeout: 20000000000
pre-vote: off
auth-token: simple
bcrypt-cost: 5
auth-token-ttl: 100
corrupt-check-time: 3600000000000
compact-hash-check-time: 30000000000
compaction-batch-limit: 500
compaction-sleep-interval: 10000000
watch-progress-notify-interval: 5000000000
warning-apply-duration: 100000000
bootstrap-defrag-threshold-megabytes: 0
warning-unary-request-duration: 300000000
max-learners: 2
force-new-cluster: false
enable-pprof: false
metrics: basic
listen-metrics-urls: ""
listen-client-http-urls: ""
enable-distributed-tracing: false
distributed-tracing-address: localhost:4317
distributed-tracing-service-name: etcd
distributed-tracing-instance-id: ""
distributed-tracing-sampling-rate: 0
logger: zap
log-format: json
log-outputs: [stderr]
enable-log-rotation: false
log-rotation-config-json: "{}"
enable-grpc-gateway: true
unsafe-no-fsync: false
downgrade-check-time: 5000000000
memory-mlock: false
v2-deprecation: not-yet
cors: "http://a.example:1,http://b.example:1"
host-whitelist: "*"
feature-gates: "InitialCorruptCheck=true,CompactHashCheck=true"
grpc-additional-server-options: []
socket-options: {reuse-port: false, reuse-address: true}
client-transport-security: {cert-file: "", key-file: "", client-cert-file: "", client-key-file: "",
  client-cert-auth: false, trusted-ca-file: "", auto-tls: false, allowed-cn: [], allowed-hostname: [],
  skip-client-san-verification: false}
peer-transport-security:
  cert-file: ""
  key-file: ""
  client-cert-file: ""
  client-key-file: ""
  client-cert-auth: false
  trusted-ca-file: ""
  auto-tls: false
  allowed-cn:
  allowed-hostname:
  skip-client-san-verification: false
discovery-config:
  token: ""
  client:
    endpoints: []
    request-timeout: 5000000000
    dial-timeout: 2000000000
    keepalive-time: 2000000000
    keepalive-timeout: 6000000000
    max-request-bytes: 0
    max-recv-bytes: 0
    secure: {cert: "", key: "", cacert: "", server-name: "", insecure-transport: true, insecure-skip-tls-verify: false}
    auth: {username: "", password: "", token: ""}
Nonsense: {of: "nobody"}
`

// oldKeys are what the files of 2.x to 3.4 spell out.
const oldKeys = `debug: false
log-package-levels: INFO
log-output: default
enable-v2: true
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
proxy: 'off'
proxy-failure-wait: 5000
proxy-refresh-interval: 30000
proxy-dial-timeout: 1000
proxy-write-timeout: 5000
proxy-read-timeout: 0
snapshot-count: 10000
cors:
`
