package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"quorate/compat/harness"
)

// TestPeerRequests sends to the peer port of a member of real etcd and of a member of ours what no
// good member sends: both answer the same, and both go on.
func TestPeerRequests(t *testing.T) {
	t.Parallel()
	var said [2]string
	for i, kind := range []harness.Kind{harness.Real, harness.Ours} {
		c := harness.LaunchCluster(t, false, []harness.Kind{kind, kind, kind})
		l := startLoad(t, c, 2, 1)
		said[i] = peerRequests(t, c)
		progress(t, l, 50)
		finish(t, c, l, 20)
	}
	if said[0] != said[1] {
		t.Errorf("etcd and quorate answer differently\n%s", sideBySide(said[0], said[1]))
	}
	t.Logf("%s", said[1])
}

// sender makes requests as the second member of the cluster to the first.
type sender struct {
	t         *testing.T
	to        *harness.Member
	cluster   string
	own, from uint64
	names     *strings.Replacer
	said      []string
}

func newSender(t *testing.T, c *harness.Cluster) *sender {
	t.Helper()
	to, from := c.Members[0], c.Members[1]
	status, err := to.Status()
	if err != nil {
		t.Fatal(err)
	}
	s := &sender{t: t, to: to, cluster: fmt.Sprintf("%x", status.Header.ClusterId), own: status.Header.MemberId,
		from: c.MustID(from)}
	var pairs []string
	for _, m := range c.Members {
		id := c.MustID(m)
		pairs = append(pairs, fmt.Sprintf("%x", id), "ID-"+m.Name, fmt.Sprint(id), "ID-"+m.Name,
			m.PeerURL(), "PEER-"+m.Name, m.ClientURL(), "CLIENT-"+m.Name)
	}
	s.names = strings.NewReplacer(append(pairs, s.cluster, "CLUSTER")...)
	return s
}

func (s *sender) headers() http.Header {
	return http.Header{
		"X-Server-From": {fmt.Sprintf("%x", s.from)}, "X-Server-Version": {"3.7.1"},
		"X-Min-Cluster-Version": {"3.0.0"}, "X-Etcd-Cluster-Id": {s.cluster},
		"X-Peerurls": {"http://127.0.0.1:9"}, "X-Raft-To": {fmt.Sprintf("%x", s.own)},
	}
}

// ask makes a request and logs the answer; change may alter the headers.
func (s *sender) ask(what, method, path string, body []byte, change func(http.Header)) {
	s.t.Helper()
	request, err := http.NewRequest(method, s.to.PeerURL()+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header = s.headers()
	if change != nil {
		change(request.Header)
	}
	s.log(what, request)
}

func (s *sender) log(what string, request *http.Request) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		s.said = append(s.said, what+": no answer")
		return
	}
	defer answer.Body.Close()
	text := fmt.Sprintf("%s: %d", what, answer.StatusCode)
	for _, name := range []string{"Content-Type", "Allow", "X-Etcd-Cluster-Id"} {
		if value := answer.Header.Get(name); value != "" {
			text += fmt.Sprintf(" %s=%q", name, value)
		}
	}
	if answer.StatusCode != http.StatusOK || answer.ContentLength >= 0 {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		text += fmt.Sprintf(" %q", body)
	}
	switch {
	case strings.Contains(what, "somebody else's message"):
		// Each product has its own words; that it is not told to be removed, by which it ends, counts.
		text = fmt.Sprintf("%s: refused %t", what, answer.StatusCode >= 400 &&
			answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusGone)
	case strings.Contains(text, "failed to decode raft message ("):
		text, _, _ = strings.Cut(text, " (") // why, in the words of a library
	}
	s.said = append(s.said, s.names.Replace(text))
}

func message(t *testing.T, m *raftpb.Message) []byte {
	t.Helper()
	encoded, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func number[T any](value T) *T { return &value }

func framed(length uint64, rest []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, length), rest...)
}

func without(name string) func(http.Header) { return func(h http.Header) { h.Del(name) } }

func with(name, value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }

func peerRequests(t *testing.T, c *harness.Cluster) string {
	s := newSender(t, c)
	garbage := bytes.Repeat([]byte{0xff}, 100)
	heartbeat := func(change func(*raftpb.Message)) []byte {
		m := &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), To: &s.own, From: &s.from, Term: number(uint64(1))}
		if change != nil {
			change(m)
		}
		return message(t, m)
	}
	for _, path := range []string{"/raft", "/raft/snapshot"} {
		s.ask("GET "+path, "GET", path, nil, nil)
		s.ask("PUT "+path, "PUT", path, nil, nil)
		s.ask(path+" of another cluster", "POST", path, heartbeat(nil), with("X-Etcd-Cluster-Id", "1234"))
		s.ask(path+" without cluster", "POST", path, heartbeat(nil), without("X-Etcd-Cluster-Id"))
		s.ask(path+" of an old version", "POST", path, heartbeat(nil), with("X-Server-Version", "2.3.0"))
		s.ask(path+" that wants a newer version", "POST", path, heartbeat(nil), with("X-Min-Cluster-Version", "4.0.0"))
		s.ask(path+" without version", "POST", path, heartbeat(nil), without("X-Server-Version"))
		s.ask(path+" with garbage", "POST", path, garbage, nil)
	}
	s.ask("a heartbeat", "POST", "/raft", heartbeat(nil), nil)
	s.ask("somebody else's message", "POST", "/raft", heartbeat(func(m *raftpb.Message) { m.To = number(uint64(9)) }), nil)
	s.ask("a message from a stranger", "POST", "/raft", heartbeat(func(m *raftpb.Message) { m.From = number(uint64(9)) }), nil)
	s.ask("no message, thus somebody else's message", "POST", "/raft", nil, nil)
	for _, kind := range []raftpb.MessageType{raftpb.MsgHup, raftpb.MsgBeat, raftpb.MsgUnreachable,
		raftpb.MsgSnapStatus, raftpb.MsgCheckQuorum} {
		s.ask("a message of the inside, "+kind.String(), "POST", "/raft",
			heartbeat(func(m *raftpb.Message) { m.Type = &kind }), nil)
	}
	for _, stream := range []string{"message", "msgapp"} {
		path := fmt.Sprintf("/raft/stream/%s/%x", stream, s.from)
		s.ask("POST "+stream, "POST", path, nil, nil)
		s.ask(stream+" of another cluster", "GET", path, nil, with("X-Etcd-Cluster-Id", "1234"))
		s.ask(stream+" of an old version", "GET", path, nil, with("X-Server-Version", "2.0.0"))
		s.ask(stream+" for somebody else", "GET", path, nil, with("X-Raft-To", "9"))
		s.ask(stream+" for nobody", "GET", path, nil, without("X-Raft-To"))
		s.ask(stream+" of a stranger", "GET", "/raft/stream/"+stream+"/9", nil, nil)
		s.ask(stream+" of no id", "GET", "/raft/stream/"+stream+"/what", nil, nil)
		s.ask(stream+" without id", "GET", "/raft/stream/"+stream+"/", nil, nil)
	}
	s.ask("a stream that there is not", "GET", fmt.Sprintf("/raft/stream/what/%x", s.from), nil, nil)
	s.ask("a snapshot without message", "POST", "/raft/snapshot", nil, nil)
	s.ask("a snapshot with a short length", "POST", "/raft/snapshot", []byte{0, 0, 0}, nil)
	s.ask("a snapshot with a short message", "POST", "/raft/snapshot", framed(1000, garbage), nil)
	s.ask("a snapshot with a huge length", "POST", "/raft/snapshot", framed(1<<62, garbage), nil)
	s.ask("a snapshot with garbage for a message", "POST", "/raft/snapshot", framed(100, garbage), nil)
	h := heartbeat(nil)
	s.ask("a snapshot that is a heartbeat", "POST", "/raft/snapshot", framed(uint64(len(h)), h), nil)
	s.ask("POST /members", "POST", "/members", nil, nil)
	s.ask("/members with a tail", "GET", "/members/what", nil, nil)
	s.ask("hash with garbage", "GET", "/members/hashkv", garbage, nil)
	s.ask("leases with garbage", "POST", "/leases", garbage, nil)
	s.ask("inner leases with garbage", "POST", "/leases/internal", garbage, nil)
	s.ask("POST version", "POST", "/version", nil, nil)
	s.ask("POST downgrade", "POST", "/downgrade/enabled", nil, nil)
	s.ask("what there is not", "GET", "/what", nil, nil)
	s.ask("the root", "GET", "/", nil, nil)
	return joinLines(s.said)
}

// TestPeerAbuse does to members of a cluster, under load, what breaks connections and wastes memory:
// the members say so, do not grow, and nothing is lost.
func TestPeerAbuse(t *testing.T) {
	t.Parallel()
	rounds := harness.EnvInt(t, "COMPAT_ABUSES", 1)
	eachMix(t, func(t *testing.T, m mix) { peerAbuse(t, m, rounds) }, "QQE")
}

func peerAbuse(t *testing.T, m mix, rounds int) {
	r := rand.New(rand.NewSource(seedOf(t)))
	c := harness.LaunchCluster(t, true, m.kinds(), lagFlags...)
	l := startLoad(t, c, 3, 1)
	for _, m := range c.Members {
		_ = m.ForgetPeak()
	}
	quiet := map[*harness.Member]int{}
	for _, one := range c.Members {
		quiet[one] = len(one.Log())
	}
	for range rounds {
		for _, target := range c.Members {
			if m.ours() && target.Kind != harness.Ours {
				continue // real etcd dies of some of this
			}
			if target.Kind == harness.Ours {
				poisonStreams(t, c, r, target)
			}
			truncatedSnapshots(t, c, target)
			brokenRequests(t, target)
			progress(t, l, 30)
		}
	}
	for _, m := range c.Members {
		if !m.Running() {
			t.Fatalf("%s, %s ended: %s\n%s", m.Name, m.Kind, m.ExitText(), m.LogTail(30))
		}
		if m.Kind != harness.Ours {
			continue
		}
		said := m.Log()[quiet[m]:]
		for _, line := range []string{"lost TCP streaming connection with remote peer",
			"failed to save incoming database snapshot"} {
			if !strings.Contains(said, line) {
				t.Errorf("%s does not say %q\n%s", m.Name, line, said)
			}
		}
		if lines := strings.Count(said, "\n"); lines > 2000*rounds {
			t.Errorf("%s says %d lines", m.Name, lines)
		}
	}
	finish(t, c, l, 30)
	memory(t, m, c, 250)
}

func (m mix) ours() bool { return strings.ContainsRune(string(m), 'Q') }

// memory demands that no member of ours grew beyond some MiB.
func memory(t *testing.T, m mix, c *harness.Cluster, most int) {
	t.Helper()
	var told []string
	for _, one := range c.Members {
		now, peak, err := one.Memory()
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, fmt.Sprintf("%s %d MiB now, %d at most", one.Kind, now, peak))
		if one.Kind == harness.Ours && peak > most {
			t.Errorf("%s had %d MiB", one.Name, peak)
		}
	}
	t.Logf("evidence: %s: %s", m, strings.Join(told, "; "))
}

// poisonStreams puts frames that make no sense into streams on which others send to a member of ours.
func poisonStreams(t *testing.T, c *harness.Cluster, r *rand.Rand, target *harness.Member) {
	t.Helper()
	empty, err := proto.Marshal(&raftpb.Message{})
	if err != nil {
		t.Fatal(err)
	}
	u64 := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	frames := [][]byte{
		bytes.Repeat([]byte{0xff}, 64), // a length beyond all, or an unknown kind
		u64(600 << 20),                 // longer than a message may be
		append(u64(100), bytes.Repeat([]byte{0xff}, 100)...), // no message
		append(u64(uint64(len(empty))), empty...),            // an empty message; in the other stream a heartbeat
		{9, 9, 9},                        // an unknown kind
		append([]byte{1}, u64(1<<60)...), // more entries than there can be
		append(append([]byte{1}, u64(1)...), u64(1<<62)...),          // an entry without end
		append([]byte{2}, u64(1<<62)...),                             // a message without end
		append([]byte{2}, append(u64(3), 0xff, 0xff, 0xff)...),       // no message
		slices.Concat([]byte{1}, u64(1), u64(2), []byte{0xff, 0xff}), // no entry
	}
	for _, at := range r.Perm(len(frames))[:4] {
		for _, from := range c.Others(target) {
			c.Net.Poison(from, target, frames[at], 2)
			// New connections, into which the frame goes.
			c.Net.Set(from, target, cut)
			c.Net.Set(from, target, harness.Link{})
		}
		for _, from := range c.Others(target) {
			for deadline := time.Now().Add(10 * time.Second); c.Net.Poisoned(from, target) > 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s opens no streams to %s\n%s", target.Name, from.Name, target.LogTail(20))
				}
			}
		}
		if !target.Running() {
			t.Fatalf("%s, %s ended of frame %d: %s\n%s", target.Name, target.Kind, at, target.ExitText(), target.LogTail(30))
		}
	}
}

// truncatedSnapshots begins to send a snapshot to a member and breaks off. Nothing may be installed,
// and nothing may remain.
func truncatedSnapshots(t *testing.T, c *harness.Cluster, target *harness.Member) {
	t.Helper()
	status, err := target.Status()
	if err != nil {
		t.Fatal(err)
	}
	own, from := status.Header.MemberId, c.MustID(c.Others(target)[0])
	index := status.RaftIndex + 1_000_000
	for _, sent := range []int{0, 5_000, 300_000} {
		m := message(t, &raftpb.Message{Type: raftpb.MsgSnap.Enum(), To: &own, From: &from,
			Term: number(status.RaftTerm), Snapshot: &raftpb.Snapshot{Data: []byte(`{"Root":{}}`),
				Metadata: &raftpb.SnapshotMetadata{ConfState: &raftpb.ConfState{Voters: []uint64{own, from}},
					Index: &index, Term: number(status.RaftTerm)}}})
		conn, err := net.Dial("tcp", strings.TrimPrefix(target.PeerURL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"+
			"Content-Length: 1000000\r\nX-Server-From: %x\r\nX-Server-Version: 3.7.1\r\n"+
			"X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: %x\r\n\r\n", from, status.Header.ClusterId)
		_, _ = conn.Write(framed(uint64(len(m)), m))
		_, _ = conn.Write(make([]byte, sent))
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && answer.StatusCode < 300 {
			t.Errorf("%s takes a snapshot with %d bytes of a million", target.Kind, sent)
		}
		conn.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(target.Dir, "member", "snap", "*"))
		if err != nil {
			t.Fatal(err)
		}
		left = slices.DeleteFunc(left, func(name string) bool {
			return filepath.Base(name) == "db" || strings.HasSuffix(name, ".snap")
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			if target.Kind == harness.Ours {
				t.Errorf("%s leaves %v of a snapshot that broke off", target.Kind, left)
			}
			return
		}
	}
}

// brokenRequests sends what is no HTTP, and requests without end.
func brokenRequests(t *testing.T, target *harness.Member) {
	t.Helper()
	var open []net.Conn
	for _, text := range []string{
		"", "\x00\x01\x02", "GET", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
		"POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"POST /raft HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
		"GET / HTTP/1.1\r\n" + strings.Repeat("X-Large: "+strings.Repeat("x", 1000)+"\r\n", 2000),
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // TLS
	} {
		for range 10 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(target.PeerURL(), "http://"))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, conn)
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write([]byte(text))
		}
	}
	for _, conn := range open {
		conn.Close()
	}
}

// TestPeerStops lets a member stop to read what the leader sends, under large writes: the leader does not
// keep it all, the others go on, and the member catches up.
func TestPeerStops(t *testing.T) {
	t.Parallel()
	megabytes := harness.EnvInt(t, "COMPAT_STOPPED_MB", 60)
	eachMix(t, func(t *testing.T, m mix) { peerStops(t, m, megabytes) }, "QQE")
}

func peerStops(t *testing.T, m mix, megabytes int) {
	c := harness.LaunchCluster(t, true, m.kinds(), "--snapshot-count=1000", "--snapshot-catchup-entries=100")
	leader := c.WaitLeader()
	l := startLoad(t, c, 2, 1)
	stopped := c.Others(leader)[0]
	if leader.Kind != harness.Ours && m.ours() {
		for _, one := range c.Members {
			if one.Kind == harness.Ours {
				c.MoveLeader(one)
				leader, stopped = one, c.Others(one)[0]
				break
			}
		}
	}
	_ = leader.ForgetPeak()
	c.Net.Set(leader, stopped, hold)
	client := c.ClientOf(leader)
	for i := range megabytes {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := client.Put(ctx, fmt.Sprintf("large/%d", i%3), strings.Repeat("x", 1_000_000))
		cancel()
		if err != nil {
			t.Fatalf("while %s does not read: %v", stopped.Kind, err)
		}
	}
	c.Net.Heal()
	finish(t, c, l, 10)
	memory(t, m, c, 400+megabytes)
}

// TestPeerImpostors lets other members than those that belong there answer at the address of one: a
// member of another cluster, one that lost its directory, one that was removed.
func TestPeerImpostors(t *testing.T) {
	t.Parallel()
	eachMix(t, peerImpostors, "QQE")
}

func peerImpostors(t *testing.T, m mix) {
	c := harness.LaunchCluster(t, false, m.kinds(), "--strict-reconfig-check=false")
	l := startLoad(t, c, 3, 1)
	for _, kind := range kindsOf(m) {
		victim := c.Members[slices.Index(m.kinds(), kind)]
		// Keepalives go to the leader's address, and no member can tell who answers there: an impostor in
		// the leader's place would say of every lease that it does not exist.
		c.MoveLeader(c.Others(victim)[0])
		progress(t, l, 50)
		victim.Kill()
		impostor := victim.Impostor(t.TempDir())
		t.Cleanup(impostor.Kill)
		harness.MustStart(t, impostor)
		progress(t, l, 100)
		for _, one := range append(c.Others(victim), impostor) {
			if !one.Running() {
				t.Fatalf("%s ended: %s\n%s", one.Kind, one.ExitText(), one.LogTail(20))
			}
		}
		said := ""
		for _, one := range c.Others(victim) {
			said += one.Log()
		}
		if !strings.Contains(said, "cluster ID mismatch") {
			t.Errorf("nobody says that the cluster at the address of a %s is another one", kind)
		}
		impostor.Kill()
		c.Start(victim)
	}
	finish(t, c, l, 20)
}

// kindsOf lists the products of a mix, each once.
func kindsOf(m mix) []harness.Kind {
	kinds := m.kinds()
	slices.Sort(kinds)
	return slices.Compact(kinds)
}
