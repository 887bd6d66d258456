package compat

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"quorate/compat/harness"
)

// dnsServer answers for a zone whose records a test may change while it runs: SRV records by UDP, or
// by TCP alone; every host of the zone is this machine.
type dnsServer struct {
	address string

	mu      sync.Mutex
	records map[string][]dnsmessage.SRVResource // by the name asked for, in lower case
	tcpOnly bool
	asked   int // questions for SRV records
}

// hostsOf is the domain of the hosts that have an address.
const hostsOf = ".members.test."

func startDNS(t *testing.T) *dnsServer {
	t.Helper()
	s := &dnsServer{records: map[string][]dnsmessage.SRVResource{}}
	for range 100 {
		// resolv.conf names no ports, so that each test has an address of its own.
		s.address = fmt.Sprintf("127.%d.%d.53", 64+rand.Intn(64), 1+rand.Intn(250))
		udp, err := net.ListenPacket("udp", s.address+":53")
		if err != nil {
			continue
		}
		tcp, err := net.Listen("tcp", s.address+":53")
		if err != nil {
			udp.Close()
			continue
		}
		t.Cleanup(func() { udp.Close(); tcp.Close() })
		go s.serveUDP(udp)
		go s.serveTCP(tcp)
		return s
	}
	t.Fatal("no port 53 can be had on any address: this test needs the rights of root")
	return nil
}

// set replaces the records of a service.
func (s *dnsServer) set(name string, records ...dnsmessage.SRVResource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[strings.ToLower(name)] = records
}

func (s *dnsServer) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func srvRecord(host string, port int) dnsmessage.SRVResource {
	return dnsmessage.SRVResource{Port: uint16(port), Target: dnsmessage.MustNewName(host)}
}

func (s *dnsServer) serveUDP(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		if answer := s.answer(buffer[:n], true); answer != nil {
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

func (s *dnsServer) serveTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			var length uint16
			for binary.Read(conn, binary.BigEndian, &length) == nil {
				asked := make([]byte, length)
				if _, err := io.ReadFull(conn, asked); err != nil {
					return
				}
				answer := s.answer(asked, false)
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
		}()
	}
}

func (s *dnsServer) answer(asked []byte, datagram bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(asked) != nil || len(m.Questions) != 1 {
		return nil
	}
	question := m.Questions[0]
	reply := dnsmessage.Message{Questions: m.Questions}
	reply.ID, reply.Response, reply.RecursionDesired = m.ID, true, m.RecursionDesired
	reply.RecursionAvailable, reply.Authoritative = true, true
	name := strings.ToLower(question.Name.String())
	header := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	records, known := s.records[name]
	switch {
	case question.Type == dnsmessage.TypeSRV && known && len(records) > 0:
		s.asked++
		if s.tcpOnly && datagram {
			reply.Truncated = true
			break
		}
		for _, record := range records {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: header, Body: &record})
		}
	case question.Type == dnsmessage.TypeA && strings.HasSuffix(name, hostsOf):
		body := &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}
		reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: header, Body: body})
	case question.Type == dnsmessage.TypeAAAA && strings.HasSuffix(name, hostsOf):
	default:
		if question.Type == dnsmessage.TypeSRV {
			s.asked++
		}
		reply.RCode = dnsmessage.RCodeNameError
	}
	packed, err := reply.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// behind has a member see this server alone in its /etc/resolv.conf.
func (s *dnsServer) behind(t *testing.T, m *harness.Member) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+s.address+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Bin = filepath.Join(harness.Root(), "testdata", "behind-dns")
	m.Env = append(m.Env, "RESOLV_CONF="+conf, "MEMBER="+binaryOf(t, m.Kind))
}
