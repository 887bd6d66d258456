package compat

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

var (
	jsonLine = regexp.MustCompile(`^\{"level":"(debug|info|warn|error|fatal)",` +
		`"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d{4})",("logger":"[^"]+",)?` +
		`"caller":"[^"/]+/[^"/]+\.(go|rs):\d+","msg":"[^"].*\}$`)
	consoleLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d{4})\t(debug|info|warn|error)\t` +
		`((raft|bbolt)\t)?[^\t/]+/[^\t/]+\.(go|rs):\d+\t[^\t]+(\t\{".*\})?$`)
	requestID = regexp.MustCompile(`ID:\d+`)
)

// entry is one line, its fields in their order.
type entry struct {
	names  []string
	fields map[string]any
}

func readEntry(t *testing.T, line string) entry {
	t.Helper()
	e := entry{fields: map[string]any{}}
	if err := json.Unmarshal([]byte(line), &e.fields); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	decoder := json.NewDecoder(strings.NewReader(line))
	_, _ = decoder.Token()
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			t.Fatal(err)
		}
		e.names = append(e.names, name.(string))
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// text is a field without the spaces that etcd's library varies, and without ids.
func (e entry) text(name string) string {
	text := strings.Join(strings.Fields(fmt.Sprint(e.fields[name])), " ")
	return requestID.ReplaceAllString(text, "ID:1")
}

// TestLogs compares what the products write to their logs, line by line in shape.
func TestLogs(t *testing.T) {
	t.Run("lines", logLines)
	t.Run("console", logConsole)
	t.Run("wrong options", logOptions)
	t.Run("rotation", logRotation)
	t.Run("journal", logJournal)
	t.Run("zone", logZone)
}

// logLines: every line has etcd's shape, tools find what they wait for, and slow requests are told
// with the same fields.
func logLines(t *testing.T) {
	p := launchPair(t, "--warning-unary-request-duration=1ns", "--warning-apply-duration=1ns")
	out := both(func(kind harness.Kind) string {
		m := p[kind]
		client := m.Client()
		ctx := t.Context()
		must := func(_ any, err error) {
			if err != nil {
				t.Error(kind, err)
			}
		}
		must(client.Put(ctx, "a\"b\n", "hello"))
		must(client.Get(ctx, "a", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend)))
		must(client.Get(ctx, "a\"b\n", clientv3.WithSerializable(), clientv3.WithLimit(3)))
		must(client.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1"), clientv3.Compare(clientv3.Version("a"), ">", 0)).
			Then(clientv3.OpPut("a", "b")).Else(clientv3.OpGet("a"), clientv3.OpPut("c", "d", clientv3.WithPrevKV())).Commit())
		must(client.Txn(ctx).Then(clientv3.OpGet("c")).Commit())
		must(client.Delete(ctx, "zz"))
		must(client.Delete(ctx, "c"))
		must(client.Compact(ctx, 2, clientv3.WithCompactPhysical()))
		if _, err := client.Get(ctx, "c", clientv3.WithRev(1)); err == nil {
			t.Error("compacted, and answered")
		}
		must(client.MemberList(ctx))
		client.Close() // etcd waits for it
		if err := m.Stop(); err != nil {
			return err.Error()
		}
		var told []string
		log := m.LastLog()
		for _, line := range splitLines(strings.TrimSpace(log)) {
			if !jsonLine.MatchString(line) {
				t.Errorf("%s: not a line: %s", kind, line)
				continue
			}
			e := readEntry(t, line)
			var values []string
			switch e.fields["msg"] {
			case "request stats":
				values = []string{"response type", "request count", "request size", "response count", "request content"}
			case "apply request took too long":
				if !strings.Contains(e.text("request"), "key:") { // the cluster's own business
					continue
				}
				values = []string{"expected-duration", "prefix", "request", "response", "error"}
			default:
				continue
			}
			if strings.Contains(line, "readiness-probe") || strings.Contains(line, "Health") {
				continue
			}
			names := slices.DeleteFunc(slices.Clone(e.names), func(name string) bool {
				return slices.Contains([]string{"queue", "sync", "quorum", "apply", "send", "read"}, name)
			})
			text := strings.Join(names, ",")
			for _, name := range values {
				text += "\n   " + name + "=" + e.text(name)
			}
			told = append(told, text)
			if kind == harness.Ours && strings.Contains(text, "KV/Put") &&
				!strings.HasSuffix(strings.Join(e.names, ","), ",queue,sync,quorum,apply,send") {
				t.Errorf("it does not say where the time went: %s", line)
			}
		}
		for _, wanted := range []string{`"msg":"ready to serve client requests"`, `"msg":"starting an etcd server"`,
			`"msg":"serving client traffic insecurely; this is strongly discouraged!","traffic":"`, `"snapshot-catchup-entries":`,
			`"v2-deprecation":"write-only"`, `"msg":"published local member to cluster through raft"`,
			`"msg":"finished scheduled compaction"`, `"msg":"closed etcd server"`} {
			if !strings.Contains(log, wanted) {
				t.Errorf("%s never says %s", kind, wanted)
			}
		}
		sort.Strings(told)
		return strings.Join(told, "\n")
	})
	if out[0] != out[1] {
		t.Error(sideBySide(out[0], out[1]))
	}
}

func logConsole(t *testing.T) {
	for _, m := range launchPair(t, "--log-format=console") {
		fields := 0
		for _, line := range splitLines(strings.TrimSpace(m.LastLog())) {
			if strings.Contains(line, "ETCD_VERIFY") { // told before the format is known
				continue
			}
			match := consoleLine.FindStringSubmatch(line)
			if match == nil {
				t.Errorf("%s: not a line: %s", m.Kind, line)
				continue
			}
			if match[6] != "" && json.Valid([]byte(match[6])) {
				fields++
				if strings.Contains(match[6], `":"`) || strings.Contains(match[6], `","`) {
					t.Errorf("%s: no spaces: %s", m.Kind, line)
				}
			}
		}
		if fields < 5 {
			t.Errorf("%s: %d lines have fields\n%s", m.Kind, fields, m.LastLog())
		}
	}
}

// logOptions: what no log can be made of is refused in the same words.
func logOptions(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.log")
	rotation := func(text string) []string {
		return []string{"--enable-log-rotation", "--log-outputs=" + file, "--log-rotation-config-json=" + text}
	}
	for _, flags := range [][]string{
		{"--logger=capnslog"}, {"--logger=foo"}, {"--log-format=foo"}, {"--log-outputs=a,default"},
		{"--log-outputs=systemd/journal,stderr"}, {"--log-outputs=systemd/journal,default"},
		{"--log-outputs=/nonexistent/dir/x"}, {"--log-outputs=/tmp"}, {"--log-outputs=foo:bar"}, {"--log-outputs="},
		{"--enable-log-rotation"}, {"--enable-log-rotation", "--log-outputs=a,b"}, rotation("{"), rotation(""), rotation("{\"a\" 1}"),
		rotation(`{"maxsize":"x"}`), rotation(`{"maxage":1.5}`), rotation(`{"compress":1}`), rotation(`{"filename":[]}`), rotation("[]"),
		rotation(`{"maxsize":true}`), rotation(`{"maxsize":99999999999999999999}`), rotation("tru"), rotation("{} x"),
		{"--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"},
		{"--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"},
	} {
		out := both(func(kind harness.Kind) string {
			m := harness.NewMember(kind, t.TempDir(), flags...)
			t.Cleanup(m.Kill)
			if err := m.Spawn(); err != nil {
				return err.Error()
			}
			select {
			case <-m.Exited():
			case <-time.After(harness.StartTimeout):
				return "serves"
			}
			lines := splitLines(strings.TrimSpace(m.LastLog()))
			var last struct{ Level, Msg, Error string }
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
				return m.LastLog()
			}
			return fmt.Sprintln(m.ExitCode(), last)
		})
		if out[0] != out[1] {
			t.Errorf("%q\n%s", flags, sideBySide(out[0], out[1]))
		}
	}
}

// logRotation: a full file gets the same kind of name, and is compressed.
func logRotation(t *testing.T) {
	out := both(func(kind harness.Kind) string {
		dir := filepath.Join(t.TempDir(), "new")
		m := harness.NewMember(kind, t.TempDir(), "--log-outputs="+filepath.Join(dir, "etcd.log"), "--enable-log-rotation",
			`--log-rotation-config-json={"maxsize":1,"maxbackups":2,"compress":true}`,
			"--warning-unary-request-duration=1ns", "--warning-apply-duration=1ns")
		t.Cleanup(m.Kill)
		if err := m.Start(); err != nil {
			return err.Error()
		}
		writeLog(t, m, 48)
		shape := func(name string) string { return regexp.MustCompile(`\d`).ReplaceAllString(name, "0") }
		var names []string
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			files, err := os.ReadDir(dir)
			if err != nil {
				return err.Error()
			}
			names = nil
			for _, file := range files {
				info, err := file.Info()
				if err != nil {
					continue
				}
				names = append(names, fmt.Sprintf("%s %s %v", shape(file.Name()), info.Mode(), info.Size() <= 1<<20))
			}
			if len(names) == 3 && strings.HasPrefix(names[0], "etcd-") && strings.Contains(names[0], ".gz ") &&
				strings.Contains(names[1], ".gz ") {
				break
			}
		}
		return strings.Join(names, "\n")
	})
	if out[0] != out[1] {
		t.Error(sideBySide(out[0], out[1]))
	}
	if !strings.Contains(out[0], "etcd-0000-00-00T00-00-00.000.log.gz -rw-------") {
		t.Errorf("etcd rotated nothing:\n%s", out[0])
	}
}

// writeLog makes a member write n times two lines of 60 KB about slow requests.
func writeLog(t *testing.T, m *harness.Member, n int) {
	t.Helper()
	client := m.Client()
	defer client.Close()
	for i := range n {
		if _, err := client.Put(t.Context(), fmt.Sprint(i%2, strings.Repeat("x", 60_000)), "x"); err != nil {
			t.Fatal(err)
		}
	}
}

// logJournal: both send the same fields to the journal's socket, which is this test.
func logJournal(t *testing.T) {
	const socket = "/run/systemd/journal/socket"
	if _, err := os.Stat(socket); err == nil {
		t.Skip("there is a journal here")
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Skipf("no journal can be made here: %v", err)
	}
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Skipf("no journal can be made here: %v", err)
	}
	defer os.Remove(socket)
	defer listener.Close()
	told := map[string]string{}
	for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
		m := harness.NewMember(kind, t.TempDir(), "--log-outputs=systemd/journal")
		t.Cleanup(m.Kill)
		if err := m.Spawn(); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 1<<20)
		for told[kind.String()] == "" {
			_ = listener.SetReadDeadline(time.Now().Add(harness.StartTimeout))
			n, err := listener.Read(buffer)
			if err != nil {
				t.Fatalf("%s: %v\n%s", kind, err, m.LogTail(5))
			}
			fields := readDatagram(buffer[:n])
			if strings.Contains(fields["MESSAGE"], "ready to serve client requests") {
				if !jsonLine.MatchString(strings.TrimSuffix(fields["MESSAGE"], "\n")) {
					t.Errorf("%s: not a line: %q", kind, fields["MESSAGE"])
				}
				if fields["PACKAGE"] == "" || fields["SYSLOG_IDENTIFIER"] == "" {
					t.Errorf("%s: %q", kind, fields)
				}
				names := make([]string, 0, len(fields))
				for name := range fields {
					names = append(names, name)
				}
				sort.Strings(names)
				told[kind.String()] = fmt.Sprint(names, fields["PRIORITY"], strings.HasSuffix(fields["MESSAGE"], "\n"))
			}
		}
		m.Kill()
		if strings.Contains(m.LastLog(), "ready to serve") {
			t.Errorf("%s: the lines are on stderr, too", kind)
		}
	}
	if told["etcd"] != told["quorate"] {
		t.Error(sideBySide(told["etcd"], told["quorate"]))
	}
}

// readDatagram reads the journal's own form.
func readDatagram(data []byte) map[string]string {
	fields := map[string]string{}
	for len(data) > 0 {
		end := bytes.IndexAny(data, "=\n")
		if end < 0 {
			break
		}
		name := string(data[:end])
		if data[end] == '=' {
			value, rest, _ := bytes.Cut(data[end+1:], []byte("\n"))
			fields[name], data = string(value), rest
			continue
		}
		length := int(binary.LittleEndian.Uint64(data[end+1:]))
		fields[name], data = string(data[end+9:end+9+length]), data[end+10+length:]
	}
	return fields
}

// logZone: times are those of the machine's zone.
func logZone(t *testing.T) {
	if _, err := os.Stat("/usr/share/zoneinfo/Asia/Kolkata"); err != nil {
		t.Skip("no zones here")
	}
	out := both(func(kind harness.Kind) string {
		m := harness.NewMember(kind, t.TempDir())
		m.Env = append(m.Env, "TZ=Asia/Kolkata")
		t.Cleanup(m.Kill)
		if err := m.Start(); err != nil {
			return err.Error()
		}
		var first struct{ Ts string }
		line, _, _ := strings.Cut(m.LastLog(), "\n")
		if err := json.Unmarshal([]byte(line), &first); err != nil {
			return err.Error()
		}
		at, err := time.Parse("2006-01-02T15:04:05.000000Z0700", first.Ts)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(first.Ts[26:], time.Since(at).Abs() < time.Minute)
	})
	if out[0] != out[1] || out[0] != "+0530true" {
		t.Error(sideBySide(out[0], out[1]))
	}
}

// TestLogBlocked: nobody reads the pipe that stderr is; puts go on, and later the log says what it lost.
func TestLogBlocked(t *testing.T) {
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	fifo, script := filepath.Join(dir, "fifo"), filepath.Join(dir, "etcd")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" 2>%s\n", tools.Ours, fifo)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	m := harness.Prepare(t, harness.Ours, "--warning-unary-request-duration=1ns", "--warning-apply-duration=1ns")
	m.Bin = script
	harness.MustStart(t, m)
	now, _, err := m.Memory()
	if err != nil {
		t.Fatal(err)
	}
	writeLog(t, m, 300) // more than the queue holds
	if _, peak, err := m.Memory(); err != nil || peak > now+150 {
		t.Errorf("memory was %d MiB, and then %d: %v", now, peak, err)
	}
	lost := make(chan float64, 1)
	go func() {
		defer close(lost)
		lines := bufio.NewReaderSize(pipe, 1<<20)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var e struct {
				Msg   string
				Count float64
			}
			if json.Unmarshal(line, &e) == nil && e.Msg == "log lines were dropped" {
				lost <- e.Count
				_, _ = lines.WriteTo(nopWriter{})
				return
			}
		}
	}()
	select {
	case count := <-lost:
		if count < 1 {
			t.Errorf("%v lines were lost", count)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing tells that lines were lost")
	}
	harness.MustStop(t, m)
}

type nopWriter struct{}

func (nopWriter) Write(p []byte) (int, error) { return len(p), nil }

// TestLogClosed: stderr is closed under the member, and it is stopped while nobody reads.
func TestLogClosed(t *testing.T) {
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "etcd")
	text := fmt.Sprintf("#!/bin/bash\nexec %s \"$@\" 2> >(head -c 100 >/dev/null)\n", tools.Ours)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	m := harness.Prepare(t, harness.Ours, "--warning-unary-request-duration=1ns")
	m.Bin = script
	harness.MustStart(t, m)
	writeLog(t, m, 20)
	harness.MustStop(t, m)
}

// TestLogFullDisk: the log's disk is full; puts go on, and when it has space again the log says what
// is missing.
func TestLogFullDisk(t *testing.T) {
	m := harness.Prepare(t, harness.Ours, "--warning-unary-request-duration=1ns", "--warning-apply-duration=1ns")
	disk := smallDisk(t, 2)
	t.Cleanup(m.Kill)
	filler, log := filepath.Join(disk, "filler"), filepath.Join(disk, "etcd.log")
	if err := os.WriteFile(filler, make([]byte, 1_500_000), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Flags = append(m.Flags, "--log-outputs="+log)
	harness.MustStart(t, m)
	writeLog(t, m, 40)
	if err := os.WriteFile(filepath.Join(disk, "more"), make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	writeLog(t, m, 5)
	if err := os.RemoveAll(filler); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(disk, "more"))
	writeLog(t, m, 1)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "log lines were dropped") {
			last := splitLines(strings.TrimSpace(string(text)))
			if !jsonLine.MatchString(last[len(last)-1]) {
				t.Errorf("the last line is not whole: %.200s", last[len(last)-1])
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing tells that lines were lost: %d bytes", len(text))
		}
	}
	harness.MustStop(t, m)
}
