package compat

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"quorate/compat/harness"
)

// ctlFiles are the corpora for ctl: testdata/ctl.txt and testdata/ctl-*.txt.
func ctlFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "ctl*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("no corpora for ctl:", err)
	}
	return files
}

// demands of a corpus stand in lines that begin with `#@ `; see README.md.
func demands(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, line := range splitLines(string(text)) {
		if words, ok := strings.CutPrefix(line, "#@ "); ok {
			for _, word := range strings.Fields(words) {
				found[word] = true
			}
		}
	}
	return found
}

// TestCtl runs each corpus with the real etcdctl and with `quorate ctl`, each against both servers.
func TestCtl(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	for _, file := range ctlFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			demands := demands(t, file)
			var shells []*shell
			var names []string
			for _, tool := range [][]string{{tools.Etcdctl}, {tools.Ours, "ctl"}} {
				for _, kind := range []harness.Kind{harness.Real, harness.Ours} {
					if kind == harness.Ours && demands["etcd"] {
						continue // ours has not what this corpus is about
					}
					if kind == harness.Ours && demands["printing"] && len(tool) == 1 {
						continue // the answers are known to be the same
					}
					shells = append(shells, ctlShell(t, kind, demands, tool...))
					names = append(names, fmt.Sprintf("%s on %s", filepath.Base(strings.Join(tool, " ")), kind))
				}
			}
			corpus(t, file, names, shells)
		})
	}
}

// ctlShell starts a server as a corpus demands it.
func ctlShell(t *testing.T, kind harness.Kind, demands map[string]bool, tool ...string) *shell {
	t.Helper()
	m := harness.Prepare(t, kind)
	names := map[string]string{}
	if demands["auth"] {
		m.Flags = append(m.Flags, "--bcrypt-cost=4") // cheap: every command logs in
	}
	if demands["tls"] {
		s := newShop(t)
		s.issue("server", nil, nil)
		s.issue("other", s.authority("other", nil), nil)
		s.write("broken.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
		s.write("text.pem", []byte("text\n"))
		s.write("strange.pem", []byte("-----BEGIN STRANGE-----\nAAAA\n-----END STRANGE-----\n"))
		s.write("twice.pem", append(slices.Clone(s.root.pem), s.root.pem...))
		keys, err := os.ReadFile(s.path("good-key.pem"))
		s.must(err)
		s.write("both.pem", append(keys, keys...))
		address, plain := host(harness.FreePort()), filepath.Join(t.TempDir(), "plain:1")
		socket := filepath.Join(t.TempDir(), "127.0.0.1:1")
		m.Flags = append(m.Flags, "--cert-file="+s.path("server.pem"), "--key-file="+s.path("server-key.pem"),
			"--trusted-ca-file="+s.path("ca.pem"),
			"--listen-client-urls="+m.ClientURL()+",https://"+address+",unixs://"+socket+",unix://"+plain)
		names["$PLAIN"] = plain
		names["$TLS"], names["$FILES"], names["$SOCKET"] = address, s.dir, socket
	}
	harness.MustStart(t, m)
	s := newShell(t, m, tool...)
	for name, value := range names {
		s.names[name] = value
	}
	if demands["auth"] {
		for _, line := range []string{"user add root:rootpw", "role add r", "role grant-permission r readwrite k",
			"user add u:pw", "user grant-role u r", "auth enable"} {
			if out, err := m.Etcdctl(strings.Fields(line)...); err != nil {
				t.Fatal(line, err, out)
			}
		}
	}
	return s
}

// TestCtlCorpus demands of the corpora that each command of etcdctl is called, each with every flag
// that its help names, and compares the help of every command.
func TestCtlCorpus(t *testing.T) {
	t.Parallel()
	tools := ownTools(t)
	var lines []command
	for _, file := range ctlFiles(t) {
		lines = append(lines, parseCorpus(t, file)...)
	}
	if len(lines) < 300 {
		t.Errorf("only %d lines", len(lines))
	}
	theirs, ours := utl{tool: []string{tools.Etcdctl}}, utl{tool: []string{tools.Ours, "ctl"}}
	ask := func(args ...string) string { out, _, _ := theirs.run(args...); return out }
	commands, flagged := 0, 0
	walkHelp(ask, nil, func(path []string, help string, flags []string) {
		commands++
		own, _, _ := ours.run(append(slices.Clone(path), "--help")...)
		if own != help {
			t.Errorf("%v --help\netcdctl:\n%squorate ctl:\n%s", path, help, own)
		}
		if !covered(lines, path, "") {
			t.Errorf("no line of a corpus calls %v", path)
		}
		for _, flag := range flags {
			flagged++
			if !covered(lines, path, flag) && !(flag == "--interactive" && covered(lines, path, "-i")) {
				t.Errorf("no line of a corpus calls %v with %s", path, flag)
			}
		}
	})
	for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(optionNames(ask("options")), -1) {
		flagged++
		if !covered(lines, nil, flag) {
			t.Errorf("no line of a corpus has the option %s", flag)
		}
	}
	if commands < 50 || flagged < 50 {
		t.Errorf("the help has only %d commands with %d flags", commands, flagged)
	}
	if !t.Failed() {
		t.Logf("evidence: %d lines call all of %d commands, with each of %d flags", len(lines), commands, flagged)
	}
}

// optionNames leaves of each line of a list of flags the flag alone.
func optionNames(text string) string {
	return regexp.MustCompile(`(?m)^ +(-\w, )?(--[a-z-]+).*$`).ReplaceAllString(text, "$2")
}

// fields shows a message of protobuf as text, so that ids in it can be masked: what may be a message
// is shown as one.
func fields(message []byte) string {
	text, ok := fieldsOf(message)
	if !ok {
		return string(message) // an answer in words
	}
	return text + "\n"
}

func fieldsOf(message []byte) (string, bool) {
	var parts []string
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return "", false
		}
		message = message[n:]
		value := ""
		switch kind {
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(message)
			value, n = fmt.Sprint(v), size
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(message)
			inner, ok := fieldsOf(v)
			if value, n = inner, size; !ok || size <= 1 {
				value = fmt.Sprintf("%q", v)
			}
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
			value = fmt.Sprintf("%x", message[:max(n, 0)])
		}
		if n < 0 {
			return "", false
		}
		message = message[n:]
		parts = append(parts, fmt.Sprintf("%d: %s", number, value))
	}
	return "{" + strings.Join(parts, ", ") + "}", true
}
