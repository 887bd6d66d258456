package compat

import (
	"context"
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

// TestProcess compares how the processes behave: how they are configured, what they log, how they end.
func TestProcess(t *testing.T) {
	t.Run("log", processLog)
	t.Run("environment", processEnvironment)
	t.Run("called etcd", processLink)
	t.Run("signals", processSignals)
}

// processLog: one JSON object a line, with etcd's own line for being ready.
func processLog(t *testing.T) {
	for _, m := range launchPair(t) {
		ready := false
		for _, line := range splitLines(strings.TrimSpace(m.LastLog())) {
			var entry struct {
				Level, Ts, Caller, Msg string
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Errorf("%s: %v: %s", m.Kind, err, line)
				continue
			}
			if _, err := time.Parse("2006-01-02T15:04:05.999999Z0700", entry.Ts); err != nil {
				t.Errorf("%s: %v", m.Kind, err)
			}
			if entry.Level == "" || entry.Msg == "" {
				t.Errorf("%s: no level or message: %s", m.Kind, line)
			}
			ready = ready || entry.Msg == "ready to serve client requests"
		}
		if !ready {
			t.Errorf("%s does not say that it is ready\n%s", m.Kind, m.LastLog())
		}
	}
}

// processEnvironment: every flag may come as ETCD_*, but not as both.
func processEnvironment(t *testing.T) {
	out := both(func(kind harness.Kind) string {
		m := harness.NewMember(kind, t.TempDir())
		t.Cleanup(m.Kill)
		for _, arg := range m.Args() {
			name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			m.Env = append(m.Env, "ETCD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
		}
		m.Env = append(m.Env, "ETCD_MAX_TXN_OPS=2", "ETCD_QUOTA_BACKEND_BYTES=123456789", "ETCD_NONSENSE=1")
		m.Bare, m.Flags = true, []string{"--max-txn-ops=3"}
		if err := m.Spawn(); err != nil { // set twice: refused
			return err.Error()
		}
		select {
		case <-m.Exited():
		case <-time.After(harness.StartTimeout):
			return "serves with a flag that is set twice"
		}
		conflict := fmt.Sprint(m.ExitText(), strings.Contains(m.LastLog(), "ETCD_MAX_TXN_OPS"))
		m.Flags = nil
		if err := m.Start(); err != nil {
			return err.Error()
		}
		client := m.Client()
		defer client.Close()
		get := clientv3.OpGet("a")
		_, two := client.Txn(t.Context()).Then(get, get).Commit()
		_, three := client.Txn(t.Context()).Then(get, get, get).Commit()
		s, err := client.Status(t.Context(), m.Endpoint())
		if err != nil {
			return err.Error()
		}
		_, err = os.Stat(m.Dir)
		return conflict + fmt.Sprintf("\n%s\n%s\nquota %d\ndirectory %v", harness.Error(two), harness.Error(three),
			s.DbSizeQuota, err == nil)
	})
	if out[0] != out[1] {
		t.Error(sideBySide(out[0], out[1]))
	}
}

// processLink: called by the name etcd, the binary is the server.
func processLink(t *testing.T) {
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	m := harness.Prepare(t, harness.Ours)
	m.Bin = filepath.Join(t.TempDir(), "etcd")
	if err := os.Symlink(tools.Ours, m.Bin); err != nil {
		t.Fatal(err)
	}
	harness.MustStart(t, m)
	harness.MustStop(t, m)
}

// processSignals: a stop with open streams and calls under way ends soon, in the same way.
func processSignals(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel() // etcd waits seven seconds for the streams that are open
			processSignal(t, signal)
		})
	}
}

func processSignal(t *testing.T, signal syscall.Signal) {
	p := launchPair(t)
	out := both(func(kind harness.Kind) string {
		m := p[kind]
		client := m.Client()
		defer client.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch := client.Watch(ctx, "a", clientv3.WithCreatedNotify())
		<-watch
		granted, err := client.Grant(ctx, 60)
		if err != nil {
			return err.Error()
		}
		if _, err := client.KeepAlive(ctx, granted.ID); err != nil {
			return err.Error()
		}
		go func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := client.Put(ctx, "a", fmt.Sprint(i)); err != nil {
					return
				}
			}
		}()
		for range 20 {
			<-watch
		}
		_ = syscall.Kill(m.Pid(), signal)
		select {
		case <-m.Exited():
			return m.ExitText()
		case <-time.After(harness.StopTimeout):
			return "did not end"
		}
	})
	if out[0] != out[1] {
		t.Errorf("%s\n%s", signal, sideBySide(out[0], out[1]))
	}
	for _, m := range p {
		if err := harness.CheckDir(m.Dir); err != nil {
			t.Errorf("%s: %v", m.Kind, err)
		}
	}
}
