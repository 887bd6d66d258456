package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Kind says which product a member runs.
type Kind int

// The two sides of every comparison, and older etcds: in clusters, and whose directories are found.
const (
	Real Kind = iota
	Ours
	Real36
	Real35
)

func (k Kind) String() string {
	switch k {
	case Real:
		return "etcd"
	case Real36:
		return "etcd-3.6"
	case Real35:
		return "etcd-3.5"
	}
	return "quorate"
}

// KindOf is the reverse of String.
func KindOf(name string) (Kind, error) {
	for _, k := range []Kind{Real, Ours, Real36, Real35} {
		if k.String() == name {
			return k, nil
		}
	}
	return Real, fmt.Errorf("no product is called %q", name)
}

// Other is the opposite side.
func (k Kind) Other() Kind { return 1 - k }

// StartTimeout bounds how long a member may take until it answers.
const StartTimeout = 30 * time.Second

// StopTimeout bounds a graceful stop.
const StopTimeout = 20 * time.Second

// Member is one server: a data directory, a pair of ports, and a process while it runs.
// Directory, name and ports stay the same when another Kind is started on them.
type Member struct {
	Kind  Kind
	Dir   string   // data directory
	Flags []string // further flags
	Env   []string // further environment
	Bin   string   // when set, the binary to run whatever the kind is
	Bare  bool     // pass Flags alone: the rest comes by Env

	Name      string   // m1, unless a cluster names it
	Advertise string   // the peer URL told to others, when it is not the one listened on
	Initial   string   // --initial-cluster, when there are other members
	Existing  bool     // the cluster is there already
	Output    *os.File // when set, where stdout and stderr go

	clientPort, peerPort int
	logPath              string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	conns  []*grpc.ClientConn
	asking *grpc.ClientConn // kept for questions about the member itself
}

// NewMember prepares a member in dir; nothing runs yet.
func NewMember(kind Kind, dir string, flags ...string) *Member {
	return &Member{
		Kind:       kind,
		Name:       "m1",
		Dir:        filepath.Join(dir, "member.etcd"),
		Flags:      flags,
		clientPort: FreePort(),
		peerPort:   FreePort(),
		logPath:    filepath.Join(dir, "log"),
	}
}

// Clone is a stopped member with the same name and ports on another directory.
func (m *Member) Clone(kind Kind, dir string) *Member {
	return &Member{
		Kind: kind, Dir: dir, Flags: m.Flags, Env: m.Env,
		Name: m.Name, Advertise: m.Advertise, Initial: m.Initial, Existing: m.Existing,
		clientPort: m.clientPort, peerPort: m.peerPort,
		logPath: m.logPath,
	}
}

var nextPort atomic.Int32

func init() { nextPort.Store(int32(12000 + rand.Intn(15000))) }

// FreePort hands out loopback ports below the ephemeral range, each one once a process, so that a
// member can come back to its port after a stop.
func FreePort() int {
	for range 10000 {
		port := int(nextPort.Add(1))
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		listener.Close()
		return port
	}
	panic("no free port")
}

// Endpoint is host:port for clients.
func (m *Member) Endpoint() string { return fmt.Sprintf("127.0.0.1:%d", m.clientPort) }

// ClientURL is the advertised client URL.
func (m *Member) ClientURL() string { return "http://" + m.Endpoint() }

// PeerURL is the peer URL listened on.
func (m *Member) PeerURL() string { return fmt.Sprintf("http://127.0.0.1:%d", m.peerPort) }

// AdvertisedPeerURL is the peer URL that other members are told.
func (m *Member) AdvertisedPeerURL() string {
	if m.Advertise != "" {
		return m.Advertise
	}
	return m.PeerURL()
}

// Args is the command line.
func (m *Member) Args() []string {
	initial, state := m.Initial, "new"
	if initial == "" {
		initial = m.Name + "=" + m.AdvertisedPeerURL()
	}
	if m.Existing {
		state = "existing"
	}
	args := []string{
		"--name=" + m.Name, "--data-dir=" + m.Dir,
		"--listen-client-urls=" + m.ClientURL(), "--advertise-client-urls=" + m.ClientURL(),
		"--listen-peer-urls=" + m.PeerURL(), "--initial-advertise-peer-urls=" + m.AdvertisedPeerURL(),
		"--initial-cluster=" + initial, "--initial-cluster-state=" + state,
		"--log-level=info",
	}
	return append(args, m.Flags...)
}

// Spawn starts the process and does not wait for it to serve.
func (m *Member) Spawn() error {
	t, err := LoadTools()
	if err != nil {
		return err
	}
	bin := t.Etcd
	switch {
	case m.Bin != "":
		bin = m.Bin
	case m.Kind == Ours:
		bin = t.Ours
	case m.Kind == Real36:
		if bin, err = Etcd36(); err != nil {
			return err
		}
	case m.Kind == Real35:
		if bin, err = Etcd35(); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(m.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s\n", m.Kind)
	args := m.Args()
	if m.Bare {
		args = m.Flags
	}
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if m.Output != nil {
		cmd.Stdout, cmd.Stderr = m.Output, m.Output
	}
	cmd.Env = append(CleanEnv(), "ETCD_VERIFY=all")
	cmd.Env = append(cmd.Env, m.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	m.mu.Lock()
	m.cmd, m.exited = cmd, exited
	m.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return nil
}

func CleanEnv() []string {
	var env []string
	for _, line := range os.Environ() {
		if !strings.HasPrefix(line, "ETCD_") && !strings.HasPrefix(line, "ETCDCTL_") {
			env = append(env, line)
		}
	}
	return env
}

// Start starts the process and waits until it answers a linearizable read.
func (m *Member) Start() error {
	if err := m.Spawn(); err != nil {
		return err
	}
	if err := m.WaitReady(StartTimeout); err != nil {
		m.Kill()
		return fmt.Errorf("%s did not start: %w\n%s", m.Kind, err, m.LogTail(40))
	}
	return nil
}

// WaitReady waits until health is SERVING and a linearizable read is answered, or the process ends.
func (m *Member) WaitReady(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ended := m.Exited()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := m.Dial()
	if err != nil {
		return err
	}
	_, err = healthpb.NewHealthClient(conn).
		Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err == nil {
		client := m.Client()
		defer client.Close()
		_, err = client.Get(ctx, "readiness-probe")
	}
	select {
	case <-ended:
		return fmt.Errorf("the process ended: %s", m.ExitText())
	default:
		return err
	}
}

// Dial opens a plain gRPC connection that retries quickly.
func (m *Member) Dial(options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(1<<31-1), grpc.MaxCallSendMsgSize(1<<31-1)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, options...)
	conn, err := grpc.NewClient("passthrough:///"+m.Endpoint(), options...)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.conns = append(m.conns, conn)
	m.mu.Unlock()
	return conn, nil
}

// Client opens a real etcd client on the member.
func (m *Member) Client() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:          []string{m.Endpoint()},
		DialTimeout:        10 * time.Second,
		Logger:             zap.NewNop(),
		BackoffWaitBetween: 5 * time.Millisecond,
	})
	if err != nil {
		panic(err) // only a wrong configuration fails here
	}
	return client
}

// Exited is closed when the process has ended.
func (m *Member) Exited() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.exited == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return m.exited
}

// Running says whether the process lives.
func (m *Member) Running() bool {
	select {
	case <-m.Exited():
		return false
	default:
		return true
	}
}

// Pid is the process id, or 0.
func (m *Member) Pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil || m.cmd.Process == nil {
		return 0
	}
	return m.cmd.Process.Pid
}

// ExitText is how the process ended ("exit status 1"); only valid after Exited.
func (m *Member) ExitText() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil || m.cmd.ProcessState == nil {
		return "not started"
	}
	return m.cmd.ProcessState.String()
}

// ExitCode is the exit code, -1 for a signal; only valid after Exited.
func (m *Member) ExitCode() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil || m.cmd.ProcessState == nil {
		return -1
	}
	return m.cmd.ProcessState.ExitCode()
}

// Kill ends the process at once, as kill -9 does, and waits for its end.
func (m *Member) Kill() {
	m.closeConns()
	if pid := m.Pid(); pid != 0 && m.Running() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-m.Exited()
}

// Stop asks the process to stop (SIGTERM) and waits for its end.
func (m *Member) Stop() error {
	m.closeConns()
	if !m.Running() {
		return errors.New("the member was not running: " + m.ExitText())
	}
	_ = syscall.Kill(m.Pid(), syscall.SIGTERM)
	select {
	case <-m.Exited():
		return nil
	case <-time.After(StopTimeout):
		m.Kill()
		return fmt.Errorf("%s ignored SIGTERM for %s\n%s", m.Kind, StopTimeout, m.LogTail(20))
	}
}

// shared is a connection that stays open between questions.
func (m *Member) shared() (*grpc.ClientConn, error) {
	m.mu.Lock()
	conn := m.asking
	m.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	conn, err := m.Dial()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.asking = conn
	m.mu.Unlock()
	return conn, nil
}

func (m *Member) closeConns() {
	m.mu.Lock()
	conns := m.conns
	m.conns, m.asking = nil, nil
	m.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
}

// Log is everything the member wrote so far, over all its starts.
func (m *Member) Log() string {
	text, err := os.ReadFile(m.logPath)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// LastLog is what the member wrote since its last start.
func (m *Member) LastLog() string {
	log := m.Log()
	if at := strings.LastIndex(log, "\n--- "); at >= 0 {
		log = log[at+1:]
	}
	if at := strings.IndexByte(log, '\n'); at >= 0 && strings.HasPrefix(log, "--- ") {
		log = log[at+1:]
	}
	return log
}

// LogTail is the last n lines of the log, and what it says of a sudden end before them.
func (m *Member) LogTail(n int) string {
	lines := strings.Split(strings.TrimRight(m.Log(), "\n"), "\n")
	from := max(0, len(lines)-n)
	var ends []string
	for _, line := range lines[:from] {
		if strings.HasPrefix(line, "panic:") || strings.Contains(line, `"level":"panic"`) ||
			strings.Contains(line, `"level":"fatal"`) || strings.Contains(line, "panicked at") {
			ends = append(ends, line)
		}
	}
	return strings.Join(append(ends[:min(3, len(ends))], lines[from:]...), "\n")
}

// Memory is what the process has resident now and had at most, in MiB.
func (m *Member) Memory() (now, peak int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
	if err != nil {
		return 0, 0, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			now = kib >> 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			peak = kib >> 10
		}
	}
	return now, peak, nil
}

// ForgetPeak lets Memory's peak begin anew.
func (m *Member) ForgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.Pid()), []byte("5"), 0)
}
