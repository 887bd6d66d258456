package compat

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"quorate/compat/harness"
)

// gatewayRoutes lists every path that real etcd's services are annotated with.
func gatewayRoutes(t *testing.T) []string {
	var routes []string
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto,
		v3lockpb.File_v3lock_proto, v3electionpb.File_v3election_proto} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, _ := proto.GetExtension(methods.Get(j).Options(), annotations.E_Http).(*annotations.HttpRule)
				for _, one := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
					if one.GetPost() != "" {
						routes = append(routes, one.GetPost())
					}
				}
			}
		}
	}
	if len(routes) < 51 {
		t.Fatalf("only %d routes: %v", len(routes), routes)
	}
	return routes
}

// A gatewayRequest is one request and what is looked at in its answer.
type gatewayRequest struct {
	method, path, body string
	headers            []string // "Name: value"
	gist               bool     // of the body only the form
}

// A gateway is one server that is asked over HTTP; what it says is kept.
type gateway struct {
	url    string
	client http.Client
	lines  []string
}

func newGateway(url string) *gateway {
	// A redirect is an answer.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &gateway{url: url, client: http.Client{Timeout: 10 * time.Second, CheckRedirect: stay}}
}

func (g *gateway) log(format string, args ...any) {
	g.lines = append(g.lines, fmt.Sprintf(format, args...))
}

var gatewayHeaders = []string{"Content-Type", "Grpc-Metadata-Content-Type", "Location", "Trailer", "Www-Authenticate",
	"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
	"X-Content-Type-Options"}

// What differs between two servers, and the space that Go's JSON has or has not, by chance.
var gatewayMasks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`"(cluster_id|member_id|raft_term|leader|raftIndex|raftTerm|raftAppliedIndex|dbSize|dbSizeInUse)":"\d+"`), `"$1":"#"`},
	{regexp.MustCompile(`"(ID|memberID)":"\d{10,}"`), `"$1":"#"`},
	{regexp.MustCompile(`"(peerURLs|clientURLs)":\["http://127[^\]]*\]`), `"$1":["#"]`},
	// By chance of the build, and of which end of etcd's inner connection is first to see a deadline.
	{regexp.MustCompile("\u00a0"), " "},
	{regexp.MustCompile("stream terminated by RST_STREAM with error code: CANCEL"), "context deadline exceeded"},
}

func masked(text string) string {
	for _, mask := range gatewayMasks {
		text = mask.pattern.ReplaceAllString(text, mask.with)
	}
	return text
}

// compacted takes the space between tokens out of JSON, and leaves everything else.
func compacted(text string) string {
	var out bytes.Buffer
	if json.Compact(&out, []byte(text)) == nil {
		return out.String()
	}
	return text
}

func (g *gateway) ask(q gatewayRequest) string {
	request, err := http.NewRequest(q.method, g.url+q.path, strings.NewReader(q.body))
	if err != nil {
		g.log("%v: %v", q, err)
		return ""
	}
	for _, header := range q.headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Add(name, value)
	}
	name := fmt.Sprintf("%s %s %.200q %q", q.method, q.path, q.body, q.headers)
	answer, err := g.client.Do(request)
	if err != nil {
		g.log("%s: %v", name, err)
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	text := []string{}
	for line := range strings.Lines(string(body)) {
		text = append(text, compacted(strings.TrimSuffix(line, "\n"))+line[len(strings.TrimSuffix(line, "\n")):])
	}
	whole := masked(strings.Join(text, ""))
	if q.gist {
		whole = regexp.MustCompile(`"remaining_bytes":"\d+",|"\d+"|"[^"]{40,}"|:\d+`).ReplaceAllString(whole, "~")
		kinds := strings.Split(strings.ReplaceAll(whole, "~\"blob", "\"blob"), "\n")
		slices.Sort(kinds)
		whole = strings.Join(slices.Compact(kinds), "\n")
	}
	var headers []string
	for _, name := range gatewayHeaders {
		for _, value := range answer.Header.Values(name) {
			headers = append(headers, name+"="+value)
		}
	}
	trailers := fmt.Sprint(answer.Trailer)
	length := "a length"
	if answer.ContentLength < 0 && q.method != "HEAD" {
		length = "chunks"
	}
	g.log("%s: %d %q in %s %v %q %v", name, answer.StatusCode, headers, length, trailers, whole, err)
	return string(body)
}

// unbuilt says whether ours has no such service yet: then there is nothing to compare.
func unbuilt(line string) bool {
	return strings.Contains(line, "unknown service v3lockpb") || strings.Contains(line, "unknown service v3election") ||
		strings.Contains(line, "authentication is not supported by this version")
}

// compareGateways demands that both have said the same.
func compareGateways(t *testing.T, etcd, ours []string) {
	t.Helper()
	missing := 0
	for i, line := range ours {
		switch {
		case i >= len(etcd):
			t.Fatalf("ours says more: %s", line)
		case unbuilt(line):
			missing++
		case line != etcd[i]:
			t.Errorf("line %d\netcd %.2500s\nours %.2500s", i+1, etcd[i], line)
		}
	}
	if len(ours) < len(etcd) {
		t.Errorf("ours says less: %s", etcd[len(ours)])
	}
	t.Logf("%d answers compared, %d of services that are not built", len(ours)-missing, missing)
}

// TestGateway sends the same requests to both: every route with good and bad bodies, and a corpus.
func TestGateway(t *testing.T) {
	routes := gatewayRoutes(t)
	logs := both(func(kind harness.Kind) []string {
		g := newGateway(harness.Launch(t, kind).ClientURL())
		for _, q := range gatewayCorpus(routes) {
			g.ask(q)
		}
		return g.lines
	})
	if len(logs[harness.Real]) < 200 {
		t.Errorf("only %d requests", len(logs[harness.Real]))
	}
	compareGateways(t, logs[harness.Real], logs[harness.Ours])
}

// TestGatewayAccess compares who may ask, and that a gateway can be switched off.
func TestGatewayAccess(t *testing.T) {
	logs := both(func(kind harness.Kind) []string {
		open := newGateway(harness.Launch(t, kind, "--cors=http://ok.example:80", "--host-whitelist=127.0.0.1").ClientURL())
		for _, origin := range []string{"http://ok.example:80", "http://evil.example", ""} {
			for _, method := range []string{"POST", "OPTIONS", "GET"} {
				headers := []string{}
				if origin != "" {
					headers = []string{"Origin: " + origin}
				}
				open.ask(gatewayRequest{method: method, path: "/v3/kv/range", body: `{"key":"YQ=="}`, headers: headers})
			}
		}
		foreign := newGateway(strings.Replace(open.url, "127.0.0.1", "localhost", 1))
		foreign.ask(gatewayRequest{method: "POST", path: "/v3/kv/range", body: `{"key":"YQ=="}`, gist: true})
		status := strings.Fields(foreign.lines[0])
		open.log("by another name: %v", slices.Contains(status, "421"))
		closed := newGateway(harness.Launch(t, kind, "--enable-grpc-gateway=false").ClientURL())
		for _, path := range []string{"/v3/kv/range", "/v3beta/kv/range", "/v3/", "/v3", "/v3/nonsense"} {
			closed.ask(gatewayRequest{method: "POST", path: path, body: `{"key":"YQ=="}`})
		}
		return append(open.lines, closed.lines...)
	})
	compareGateways(t, logs[harness.Real], logs[harness.Ours])
}

// A gatewayStream is a request whose body is written while its answer is read.
type gatewayStream struct {
	g     *gateway
	body  *io.PipeWriter
	lines chan string
}

func (g *gateway) stream(path string) *gatewayStream {
	in, body := io.Pipe()
	s := &gatewayStream{g, body, make(chan string, 100)}
	request, err := http.NewRequest("POST", g.url+path, in)
	if err != nil {
		panic(err)
	}
	go func() {
		defer close(s.lines)
		answer, err := g.client.Do(request)
		if err != nil {
			s.lines <- "no answer"
			return
		}
		defer answer.Body.Close()
		s.lines <- fmt.Sprint(answer.StatusCode, answer.Header["Content-Type"])
		for scanner := bufio.NewScanner(answer.Body); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
	}()
	return s
}

func (s *gatewayStream) write(text string) { _, _ = io.WriteString(s.body, text) }

// read logs so many lines of the answer; less when it ends before.
func (s *gatewayStream) read(count int) {
	for range count {
		select {
		case line, ok := <-s.lines:
			if !ok {
				line = "the end"
			}
			s.g.log("%s", masked(line))
		case <-time.After(5 * time.Second):
			s.g.log("nothing")
			return
		}
	}
}

// readSorted is read of lines whose order is by chance.
func (s *gatewayStream) readSorted(count int) {
	before := len(s.g.lines)
	s.read(count)
	slices.Sort(s.g.lines[before:])
}

// TestGatewayStreams compares streams whose requests come in pieces. Over HTTP/1.1 etcd answers when
// the body has ended; ours answers at once, see TestGatewayDuplex.
func TestGatewayStreams(t *testing.T) {
	logs := both(func(kind harness.Kind) []string {
		g := newGateway(harness.Launch(t, kind).ClientURL())
		put := func(value string) {
			g.ask(gatewayRequest{method: "POST", path: "/v3/kv/put", body: `{"key":"YQ==","value":"` + value + `"}`})
		}
		put("MQ==")
		put("Mg==")
		s := g.stream("/v3/watch")
		s.write(`{"create_request":{"key":"YQ`)
		s.write(`==","start_revision":1}}`)
		s.write("\n\t " + `{"create_request":{"key":"YQ==","watch_id":"7","prev_kv":true}}{"cancelRequest":{"watch_id":9}} `)
		s.write(`{"create_request":{"key":"Yg==","range_end":"YQ=="}}nonsense{"create_request":{}}`)
		s.body.Close()
		s.readSorted(5)
		put("Mw==")
		s.readSorted(2)
		put("NA==")
		s.readSorted(2)

		g.ask(gatewayRequest{method: "POST", path: "/v3/lease/grant", body: `{"ID":7,"TTL":600}`})
		for _, pieces := range [][]string{{`{"ID":7}`}, {`{"ID":7}{"I`, `D":"8"}`, ` {"ID":7} `}, {`{"ID":7}{"ID"`}, {``}, {`[]`}} {
			s = g.stream("/v3/lease/keepalive")
			for _, piece := range pieces {
				s.write(piece)
			}
			s.body.Close()
			s.read(len(pieces) + 2)
		}
		return g.lines
	})
	compareGateways(t, logs[harness.Real], logs[harness.Ours])
}

// TestGatewayDuplex reads the answers of ours while the body goes on.
func TestGatewayDuplex(t *testing.T) {
	g := newGateway(harness.Launch(t, harness.Ours).ClientURL())
	s := g.stream("/v3/watch")
	s.write(`{"create_request":{"key":"YQ==","watch_id":"3"}}`)
	s.read(2)
	g.ask(gatewayRequest{method: "POST", path: "/v3/kv/put", body: `{"key":"YQ=="}`})
	s.read(1)
	s.write(`{"cancel_request":`)
	s.write(`{"watch_id":3}}`)
	s.read(1)
	s.body.Close()
	for i, want := range []string{"200", `"created":true`, "/v3/kv/put", `"events":[`, `"canceled":true`} {
		if i >= len(g.lines) || !strings.Contains(g.lines[i], want) {
			t.Fatalf("%q is not in line %d of %q", want, i+1, g.lines)
		}
	}
}

// TestGatewayLongAnswer reads slowly what is much longer than a member may hold of it.
func TestGatewayLongAnswer(t *testing.T) {
	const values, growthMax = 48, 48 // MiB; the answer has 63
	m := harness.Launch(t, harness.Ours)
	g := newGateway(m.ClientURL())
	g.client.Timeout = time.Minute
	value := strings.Repeat("abc", 340_000)
	client := m.Client()
	for i := range values {
		if _, err := client.Put(t.Context(), fmt.Sprintf("key%03d", i), value); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.ForgetPeak(); err != nil {
		t.Fatal(err)
	}
	before, _, err := m.Memory()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := g.client.Post(g.url+"/v3/kv/range", "application/json", strings.NewReader(`{"key":"AA==","range_end":"AA=="}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	time.Sleep(time.Second) // so that ours could run ahead of its reader
	var all struct {
		Kvs   []struct{ Key, Value string }
		Count string
	}
	if err := json.NewDecoder(answer.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	if len(all.Kvs) != values || all.Count != fmt.Sprint(values) || all.Kvs[values-1].Value != base64.StdEncoding.EncodeToString([]byte(value)) {
		t.Errorf("%d rows, count %s", len(all.Kvs), all.Count)
	}
	_, peak, err := m.Memory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("memory %d MiB before, %d MiB at most", before, peak)
	if peak-before > growthMax {
		t.Errorf("%d MiB more than before", peak-before)
	}
}

// TestGatewayGone looks at ours when clients go: their calls end with them, however they came.
func TestGatewayGone(t *testing.T) {
	m := harness.Launch(t, harness.Ours)
	g := newGateway(m.ClientURL())
	streams := func() string {
		answer, err := g.client.Get(g.url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return regexp.MustCompile(`(?m)^etcd_debugging_mvcc_watch_stream_total \d+$`).FindString(string(text))
	}
	wait := func(count int) {
		t.Helper()
		want := fmt.Sprint("etcd_debugging_mvcc_watch_stream_total ", count)
		for deadline := time.Now().Add(5 * time.Second); streams() != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%q, not %q", streams(), want)
			}
		}
	}
	create := `{"create_request":{"key":"YQ=="}}`
	request := fmt.Sprintf("POST /v3/watch HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(create), create)
	open := "POST /v3/watch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
		fmt.Sprintf("%x\r\n%s\r\n", len(create), create)
	malformed := "POST /v3/watch HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + create + "x"
	var conns []net.Conn
	for _, text := range []string{request, open, malformed} {
		conn, err := net.Dial("tcp", m.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	s := g.socket("/v3/watch")
	s.write(create)
	s.read(1)
	wait(4)
	for i, conn := range conns {
		conn.Close()
		wait(3 - i)
	}
	s.conn.Close()
	wait(0)
}

// TestGatewayLimits sends ours more than it takes.
func TestGatewayLimits(t *testing.T) {
	g := newGateway(harness.Launch(t, harness.Ours).ClientURL())
	g.client.Timeout = time.Minute
	long := strings.Repeat(" ", 5<<20)
	for _, q := range []gatewayRequest{
		{method: "POST", path: "/v3/kv/put", body: `{"key":"YQ==",` + long + `"value":""}`},
		{method: "POST", path: "/v3/kv/put", body: `{"key":"YQ=="}` + long},
		{method: "POST", path: "/v3/lease/keepalive", body: `{"ID":7}{"x":` + long + `}{"ID":7}`},
	} {
		g.ask(q)
	}
	for i, want := range []string{": 429 ", ": 200 ", ": 200 "} {
		if !strings.Contains(g.lines[i], want) {
			t.Errorf("not %q: %.300q", want, g.lines[i][max(0, len(g.lines[i])-300):])
		}
	}
	if strings.Count(g.lines[2], "result") != 1 {
		t.Errorf("not one answer: %.300q", g.lines[2][max(0, len(g.lines[2])-300):])
	}
}
