package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Link is how the network treats what one member sends to another.
type Link struct {
	Cut   bool          // connections are closed, new ones too
	Hold  bool          // nothing arrives, nobody is told; it arrives when the link is well again
	Delay time.Duration // everything arrives later
	Loss  float64       // so many of the chunks wait for a retransmission; rarely a connection breaks
	Rate  int           // bytes a second, if not 0
}

// What TCP makes of a lost packet: a pause, and once in a while a broken connection.
const (
	retransmission = 200 * time.Millisecond
	breaksPerLoss  = 0.02
)

const (
	chunkBytes  = 32 << 10
	chunksAhead = 256 // on the way in one connection
)

// poison is written into the next streams between two members.
type poison struct {
	frame []byte
	left  int // streams
}

// Network stands between the members of a cluster: each one advertises a peer URL at which the
// network listens. It knows who dials from the process that owns the other end of the connection,
// so that every ordered pair of members can be treated on its own.
type Network struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	links   map[[2]*Member]Link
	poisons map[[2]*Member]*poison
	members []*Member
	pipes   map[*pipe]struct{}
	doors   []net.Listener
	closed  bool
	seed    *rand.Rand
}

// NewNetwork makes a network in which everything arrives.
func NewNetwork(seed int64) *Network {
	return &Network{
		changed: make(chan struct{}), links: map[[2]*Member]Link{},
		poisons: map[[2]*Member]*poison{}, pipes: map[*pipe]struct{}{},
		seed: rand.New(rand.NewSource(seed)),
	}
}

// Attach gives a member, not started yet, an address in the network.
func (n *Network) Attach(m *Member) error {
	door, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", FreePort()))
	if err != nil {
		return err
	}
	m.Advertise = "http://" + door.Addr().String()
	n.mu.Lock()
	n.members = append(n.members, m)
	n.doors = append(n.doors, door)
	n.mu.Unlock()
	go n.serve(m, door)
	return nil
}

// Set treats what goes from one member to another in that way from now on.
func (n *Network) Set(from, to *Member, link Link) {
	n.change(func() { n.links[[2]*Member{from, to}] = link })
}

// Isolate sets all links from and to a member.
func (n *Network) Isolate(m *Member, link Link) {
	n.change(func() {
		for _, other := range n.members {
			n.links[[2]*Member{m, other}], n.links[[2]*Member{other, m}] = link, link
		}
	})
}

// All sets all links.
func (n *Network) All(link Link) {
	n.change(func() {
		for _, from := range n.members {
			for _, to := range n.members {
				n.links[[2]*Member{from, to}] = link
			}
		}
	})
}

// Poison puts a frame at the start of the next streams on which one member sends to another, as if
// the sender had written it.
func (n *Network) Poison(from, to *Member, frame []byte, streams int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.poisons[[2]*Member{from, to}] = &poison{frame, streams}
}

// Poisoned says how many of those streams are still to come.
func (n *Network) Poisoned(from, to *Member) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.poisons[[2]*Member{from, to}]; p != nil {
		return p.left
	}
	return 0
}

// taint puts the frame after the header of an answer that is a stream: one whose body has no known end.
func (n *Network) taint(from, to *Member, answer []byte) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.poisons[[2]*Member{from, to}]
	if p == nil || p.left == 0 || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
		return answer
	}
	header, rest, whole := bytes.Cut(answer, []byte("\r\n\r\n"))
	lower := bytes.ToLower(header)
	if !whole || !bytes.Contains(lower, []byte("transfer-encoding: chunked")) ||
		!bytes.Contains(lower, []byte("x-server-version")) { // which streams have, and no other answer
		return answer
	}
	p.left--
	return slices.Concat(header, []byte("\r\n\r\n"),
		fmt.Appendf(nil, "%x\r\n", len(p.frame)), p.frame, []byte("\r\n"), rest)
}

// Heal lets everything arrive again.
func (n *Network) Heal() { n.change(func() { clear(n.links) }) }

// Close ends all connections.
func (n *Network) Close() {
	n.change(func() {
		n.closed = true
		for _, door := range n.doors {
			door.Close()
		}
	})
}

func (n *Network) change(how func()) {
	n.mu.Lock()
	how()
	close(n.changed)
	n.changed = make(chan struct{})
	var broken []*pipe
	for p := range n.pipes {
		if n.closed || n.links[[2]*Member{p.near, p.far}].Cut || n.links[[2]*Member{p.far, p.near}].Cut {
			broken = append(broken, p)
		}
	}
	n.mu.Unlock()
	for _, p := range broken {
		p.abort()
	}
}

// look returns a link and a channel that is closed at the next change.
func (n *Network) look(from, to *Member) (Link, chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[[2]*Member{from, to}], n.changed
}

func (n *Network) serve(to *Member, door net.Listener) {
	for {
		conn, err := door.Accept()
		if err != nil {
			return
		}
		go n.connect(conn.(*net.TCPConn), to)
	}
}

func (n *Network) connect(near *net.TCPConn, to *Member) {
	from := n.owner(near)
	if from == nil { // gone already
		_ = near.SetLinger(0)
		near.Close()
		return
	}
	far, err := net.Dial("tcp", strings.TrimPrefix(to.PeerURL(), "http://"))
	if err != nil {
		_ = near.SetLinger(0)
		near.Close()
		return
	}
	p := &pipe{net: n, near: from, far: to, ends: [2]*net.TCPConn{near, far.(*net.TCPConn)},
		broken: make(chan struct{})}
	n.mu.Lock()
	out, back := n.links[[2]*Member{from, to}], n.links[[2]*Member{to, from}]
	refused := n.closed || out.Cut || back.Cut
	if !refused {
		n.pipes[p] = struct{}{}
	}
	n.mu.Unlock()
	if refused {
		p.abort()
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.run(from, to, p.ends[0], p.ends[1], false) })
	wg.Go(func() { p.run(to, from, p.ends[1], p.ends[0], true) })
	wg.Wait()
	p.abort()
	n.mu.Lock()
	delete(n.pipes, p)
	n.mu.Unlock()
}

// pipe is one connection through the network.
type pipe struct {
	net       *Network
	near, far *Member // who dialled, and who was dialled
	ends      [2]*net.TCPConn
	once      sync.Once
	broken    chan struct{}
}

func (p *pipe) abort() {
	p.once.Do(func() {
		close(p.broken)
		for _, end := range p.ends {
			_ = end.SetLinger(0)
			end.Close()
		}
	})
}

// passable waits while the link is held; it returns the link, or false when the pipe broke.
func (p *pipe) passable(from, to *Member) (Link, bool) {
	for {
		link, changed := p.net.look(from, to)
		if !link.Hold {
			return link, true
		}
		select {
		case <-changed:
		case <-p.broken:
			return link, false
		}
	}
}

type chunk struct {
	bytes []byte
	due   time.Time
}

func (p *pipe) run(from, to *Member, in, out *net.TCPConn, answers bool) {
	queue := make(chan chunk, chunksAhead)
	go func() {
		defer close(queue)
		for {
			if _, ok := p.passable(from, to); !ok {
				return
			}
			block := make([]byte, chunkBytes)
			count, err := in.Read(block)
			block = block[:max(0, count)]
			if answers {
				block = p.net.taint(from, to, block)
			}
			if count > 0 {
				link, _ := p.net.look(from, to)
				due := time.Now().Add(link.Delay)
				if link.Loss > 0 && p.net.draw() < link.Loss {
					due = due.Add(retransmission)
					if p.net.draw() < breaksPerLoss {
						p.abort()
						return
					}
				}
				select {
				case queue <- chunk{block, due}:
				case <-p.broken:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					p.abort()
				}
				return
			}
		}
	}()
	for c := range queue {
		if !p.wait(time.Until(c.due)) {
			return
		}
		link, ok := p.passable(from, to)
		if !ok {
			return
		}
		if _, err := out.Write(c.bytes); err != nil {
			p.abort()
			return
		}
		if link.Rate > 0 && !p.wait(time.Duration(len(c.bytes))*time.Second/time.Duration(link.Rate)) {
			return
		}
	}
	_ = out.CloseWrite()
}

func (p *pipe) wait(pause time.Duration) bool {
	if pause <= 0 {
		return true
	}
	select {
	case <-time.After(pause):
		return true
	case <-p.broken:
		return false
	}
}

func (n *Network) draw() float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seed.Float64()
}

// owner finds the member whose process holds the other end of a connection.
func (n *Network) owner(conn *net.TCPConn) *Member {
	inode := socketInode(conn.RemoteAddr().(*net.TCPAddr).Port, conn.LocalAddr().(*net.TCPAddr).Port)
	if inode == "" {
		return nil
	}
	wanted := "socket:[" + inode + "]"
	n.mu.Lock()
	members := append([]*Member{}, n.members...)
	n.mu.Unlock()
	for _, m := range members {
		if m.Pid() == 0 || !m.Running() {
			continue
		}
		dir := fmt.Sprintf("/proc/%d/fd", m.Pid())
		files, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, file := range files {
			if target, err := os.Readlink(filepath.Join(dir, file.Name())); err == nil && target == wanted {
				return m
			}
		}
	}
	return nil
}

// socketInode finds the socket bound to one loopback port and connected to another.
func socketInode(local, remote int) string {
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer file.Close()
	from, to := fmt.Sprintf("0100007F:%04X", local), fmt.Sprintf("0100007F:%04X", remote)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && fields[1] == from && fields[2] == to && fields[9] != "0" {
			return fields[9]
		}
	}
	return ""
}
