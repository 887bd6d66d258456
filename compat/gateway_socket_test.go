package compat

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"quorate/compat/harness"
)

// A gatewaySocket is a websocket that logs what comes on it.
type gatewaySocket struct {
	g    *gateway
	conn *websocket.Conn
}

func (g *gateway) socket(path string, headers ...string) *gatewaySocket {
	asked := http.Header{}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		asked.Set(name, value)
	}
	conn, answer, err := websocket.DefaultDialer.Dial(strings.Replace(g.url, "http:", "ws:", 1)+path, asked)
	if err != nil {
		g.log("websocket %s: %v", path, err)
		return &gatewaySocket{g, nil}
	}
	g.log("websocket %s %q: %d protocol %q cors %q", path, headers, answer.StatusCode,
		answer.Header.Values("Sec-Websocket-Protocol"), answer.Header.Values("Access-Control-Allow-Origin"))
	return &gatewaySocket{g, conn}
}

func (s *gatewaySocket) write(text string) {
	if s.conn != nil {
		_ = s.conn.WriteMessage(websocket.TextMessage, []byte(text))
	}
}

// read logs so many messages, or how the websocket ended.
func (s *gatewaySocket) read(count int) {
	for range count {
		if s.conn == nil {
			return
		}
		_ = s.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		kind, text, err := s.conn.ReadMessage()
		if err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				s.g.log("nothing")
			} else {
				s.g.log("ended: %v", err)
			}
			s.conn.Close()
			s.conn = nil
			return
		}
		s.g.log("%d %s", kind, masked(compacted(string(text))))
	}
}

func (s *gatewaySocket) close() {
	if s.conn != nil {
		_ = s.conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
		s.read(1)
	}
}

// handshake logs the answer to a handshake that is not quite right.
func (g *gateway) handshake(method string, headers ...string) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		g.log("%v", err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(conn, "%s /v3/watch HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", method, strings.Join(headers, "\r\n"))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		g.log("%s %q: %v", method, headers, err)
		return
	}
	body := ""
	if answer.StatusCode != http.StatusSwitchingProtocols && answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		body = masked(compacted(string(text)))
	}
	g.log("%s %q: %d %q version %q accept %q nosniff %q: %q", method, headers, answer.StatusCode, answer.Header["Content-Type"],
		answer.Header.Values("Sec-Websocket-Version"), answer.Header.Values("Sec-Websocket-Accept"),
		answer.Header.Values("X-Content-Type-Options"), body)
}

// TestGatewaySockets compares websockets: watch, keepalive, and what they are not made for.
func TestGatewaySockets(t *testing.T) {
	logs := both(func(kind harness.Kind) []string {
		m := harness.Launch(t, kind)
		g := newGateway(m.ClientURL())
		put := func(value string) {
			g.ask(gatewayRequest{method: "POST", path: "/v3/kv/put", body: `{"key":"YQ==","value":"` + value + `"}`})
		}
		put("MQ==")
		s := g.socket("/v3/watch")
		s.write(`{"create_request":{"key":"YQ==","start_revision":"1"}}`)
		s.read(2)
		put("Mg==")
		s.read(1)
		s.write(`{"create_request":`)
		s.write(`{"key":"YQ==","watch_id":"5"}} {"cancel_request":{"watch_id":"5"}}`)
		s.read(2)
		_ = s.conn.WriteMessage(websocket.BinaryMessage, []byte(`{"progress_request":{}}`))
		s.read(1)
		_ = s.conn.WriteMessage(websocket.PingMessage, []byte("x"))
		pong := make(chan string, 1)
		s.conn.SetPongHandler(func(text string) error { pong <- text; return nil })
		put(strings.Repeat("QUJD", 100_000))
		s.read(1)
		g.log("pong %q", <-pong)
		s.write("nonsense")
		put("Mw==")
		s.read(1)
		s.conn.Close() // etcd reads no more, and would not see a polite end

		s = g.socket("/v3/lease/keepalive", "Sec-WebSocket-Protocol: Bearer, token")
		g.ask(gatewayRequest{method: "POST", path: "/v3/lease/grant", body: `{"ID":7,"TTL":600}`})
		s.write(`{"ID":7}`)
		s.read(1)
		s.write(`{"ID":8}{"ID":"7"}`)
		s.read(2)
		s.write(`[]`)
		s.read(1)
		s = g.socket("/v3beta/lease/keepalive?method=GET", "Cookie: token=x", "Origin: http://evil.example")
		s.write(`{"ID":7}`)
		s.read(1)
		s.close()
		for _, path := range []string{"/v3/nonsense", "/v3/kv/range/"} {
			s = g.socket(path)
			s.read(2)
		}
		s = g.socket("/v3/watch", "Sec-WebSocket-Protocol: chat")
		s.close()
		s = g.socket("/health")
		s.close()
		good := []string{"Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
		g.handshake("GET", good...)
		g.handshake("POST", good...)
		for i := range good {
			without := append(append([]string{}, good[:i]...), good[i+1:]...)
			g.handshake("GET", append(without, "Connection: close")...)
		}
		g.handshake("GET", append(append([]string{}, good[:3]...), "Sec-WebSocket-Key: short")...)
		g.handshake("GET", append(append([]string{}, good[:2]...), "Sec-WebSocket-Version: 8", good[3])...)
		// A member that stops ends its websockets.
		s = g.socket("/v3/watch")
		s.write(`{"create_request":{"key":"YQ=="}}`)
		s.read(1)
		idle := g.socket("/v3/kv/range")
		began := time.Now()
		if kind == harness.Real {
			m.Kill() // it would wait for the websockets
		} else if err := m.Stop(); err != nil || time.Since(began) > 5*time.Second {
			g.log("stopped after %s: %v", time.Since(began), err)
		}
		idle.read(1)
		return g.lines
	})
	compareGateways(t, logs[harness.Real], logs[harness.Ours])
}
