package compat

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"quorate/compat/harness"
)

// command is one line of a corpus.
type command struct {
	line  int
	text  string
	args  []string
	env   []string // NAME=value, from words in front
	stdin string
	lines int  // stop it (SIGINT) after so many lines of output; 0: it ends by itself
	mixed bool // the order of what it tells is by ids
}

// parseCorpus reads a corpus; see README.md.
func parseCorpus(t *testing.T, file string) []command {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []command
	for i, line := range splitLines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		words, err := splitWords(line)
		if err != nil {
			t.Fatalf("%s:%d: %v", file, i+1, err)
		}
		c := command{line: i + 1, text: line}
		if n, ok := strings.CutPrefix(words[0], "@lines="); ok {
			if c.lines, err = strconv.Atoi(n); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
			words = words[1:]
		}
		if words[0] == "@mixed" {
			c.mixed, words = true, words[1:]
		}
		for environment.MatchString(words[0]) {
			c.env, words = append(c.env, words[0]), words[1:]
		}
		if n := len(words); n > 2 && words[n-2] == "<<<" {
			c.stdin, words = words[n-1], words[:n-2]
		}
		c.args = words
		list = append(list, c)
	}
	return list
}

// splitWords splits a line as a shell would: 'as it is', "with \n \t \\ \" escapes", bare words.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		ch := line[i]
		switch {
		case quote == '\'' && ch == '\'', quote == '"' && ch == '"':
			quote = 0
		case quote == '"' && ch == '\\' && i+1 < len(line):
			i++
			switch line[i] {
			case 'n':
				word.WriteByte('\n')
			case 't':
				word.WriteByte('\t')
			default:
				word.WriteByte(line[i])
			}
		case quote != 0:
			word.WriteByte(ch)
		case ch == '\'' || ch == '"':
			quote, inWord = ch, true
		case ch == ' ' || ch == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteByte(ch)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("unclosed %c", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// shell runs commands of one tool against one server and masks what may differ.
type shell struct {
	tool   []string // program and leading arguments
	m      *harness.Member
	dir    string
	lease  string   // the lease granted last, in hex
	leases []string // every one granted, in hex
	added  string   // the member added last, in hex
	ids    [][2]string
	names  map[string]string // further variables, shown by their names
}

func newShell(t *testing.T, m *harness.Member, tool ...string) *shell {
	t.Helper()
	client := m.Client()
	defer client.Close()
	p, err := client.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{tool: tool, m: m, dir: t.TempDir(), names: map[string]string{
		"$MEMBER": strconv.FormatUint(p.Header.MemberId, 16),
	}}
	for _, id := range []struct {
		id   uint64
		name string
	}{{p.Header.MemberId, "MEMBER"}, {p.Header.ClusterId, "CLUSTER"}} {
		s.ids = append(s.ids, [2]string{fmt.Sprintf("%016x", id.id), id.name},
			[2]string{strconv.FormatUint(id.id, 16), id.name},
			[2]string{strconv.FormatUint(id.id, 10), id.name})
	}
	return s
}

var (
	environment = regexp.MustCompile(`^[A-Z_]+=`)

	granted   = regexp.MustCompile(`lease ([0-9a-f]+) granted`)
	added     = regexp.MustCompile(`Member +([0-9a-f]+) added`)
	grantedID = regexp.MustCompile(`"ID":(\d+)`)
)

// pieceEnds are between the words of a list whose order is by ids.
var pieceEnds = regexp.MustCompile(`[\[\]{},"= ]+`)

// logMoment is what a line of the log says of the time and of the program.
var logMoment = regexp.MustCompile(`"(ts|caller)":"[^"]*",|,"stacktrace":"[^"]*"`)

// masks for what two right runs may print differently.
var masks = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b[0-9a-f]{12,16}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9]{17,20}\b`), "NUMBER"},
	{regexp.MustCompile(` +(MEMBER|CLUSTER|ID)\b`), " $1"}, // padded where an id begins with zeros
	{regexp.MustCompile(`"TTL" : \d+(\n"GrantedTTL")`), `"TTL" : N$1`},
	{regexp.MustCompile(`\btook [0-9.]+(ns|µs|ms|s)`), "took TIME"},
	{regexp.MustCompile(`took = [0-9.]+(ns|µs|ms|s)`), "took = TIME"},
	{regexp.MustCompile(`took: [0-9.]+(ns|µs|ms|s)`), "took: TIME"},
	{regexp.MustCompile(`"took":"[^"]*"`), `"took":"TIME"`},
	{regexp.MustCompile(`Took [0-9.]+(ns|µs|ms|s)`), "Took TIME"},
	// A struct as Go prints it, which has addresses of memory.
	{regexp.MustCompile(`(marshal unsupported for type \S+) \(&\{.*\}\)`), "$1"},
	{regexp.MustCompile(`"Took" : [0-9.]+(ns|µs|ms|s)`), `"Took" : TIME`},
	{regexp.MustCompile(`│ [0-9.]+(ns|µs|ms|s) │`), "│ TIME │"},
	{regexp.MustCompile(`larger than max \(\d+ vs`), "larger than max (N vs"}, // ids have many lengths
	{regexp.MustCompile(`[0-9.]+ [kM]?B\b`), "SIZE"},
	{regexp.MustCompile(`\b[0-9]+%`), "PERCENT"},
	{regexp.MustCompile(`"(raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|raft_term|raftTerm)":\d+`), `"$1":N`},
	{regexp.MustCompile(`"(RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|RaftTerm)" : \d+`), `"$1" : N`},
	{regexp.MustCompile(`(true|false), (true|false), \d+, \d+, \d+,`), "$1, $2, T, I, A,"},
	{regexp.MustCompile(`│ (true|false) │ (true|false) │ \d+ │ \d+ │ \d+ │`), "│ $1 │ $2 │ T │ I │ A │"},
	{regexp.MustCompile(`remaining\((\d+)s\)`), "remaining(Ns)"},
	{regexp.MustCompile(`"ttl":\d+`), `"ttl":N`},
}

func (s *shell) mask(text string) string {
	var kept []string
	for _, line := range splitLines(text) {
		if !strings.HasPrefix(line, `{"level":`) { // the client's own log
			kept = append(kept, line)
		} else if strings.Contains(line, "environment variable") {
			kept = append(kept, logMoment.ReplaceAllString(line, ""))
		}
	}
	kept = slices.DeleteFunc(kept, func(line string) bool {
		return strings.HasPrefix(line, "stty: ") // run by etcdctl, where there is no terminal
	})
	text = joinLines(kept)
	for i, lease := range s.leases {
		for _, form := range []string{fmt.Sprintf("%016s", lease), lease} { // commands pad or do not
			text = strings.ReplaceAll(text, form, fmt.Sprint("LEASE", i))
		}
		if n, err := strconv.ParseInt(lease, 16, 64); err == nil {
			text = strings.ReplaceAll(text, strconv.FormatInt(n, 10), fmt.Sprint("LEASE", i))
		}
	}
	for _, id := range s.ids {
		text = strings.ReplaceAll(text, id[0], id[1])
	}
	for name, value := range s.names {
		if name != "$MEMBER" { // an id, and shown as one
			text = strings.ReplaceAll(text, value, name)
		}
	}
	text = strings.NewReplacer(s.m.ClientURL(), "CLIENT-URL", s.m.PeerURL(), "PEER-URL",
		s.m.Endpoint(), "ENDPOINT", s.dir, "DIR").Replace(text)
	if strings.Contains(text, "───") { // a table: its columns are as wide as their values
		text = regexp.MustCompile(`─+`).ReplaceAllString(text, "─")
		text = regexp.MustCompile(` +`).ReplaceAllString(text, " ")
	}
	for _, m := range masks {
		text = m.find.ReplaceAllString(text, m.with)
	}
	return text
}

// run runs a command and returns what a user would see.
func (s *shell) run(ctx context.Context, c command) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	args := append([]string{}, s.tool[1:]...)
	variables := []string{"$LEASE", s.lease, "$DIR", s.dir, "$ENDPOINT", s.m.Endpoint(), "$ADDED", s.added}
	for name, value := range s.names {
		variables = append(variables, name, value)
	}
	names := strings.NewReplacer(variables...)
	if !contains(c.args, "--endpoints") && !contains(c.args, "-d") {
		args = append(args, "--endpoints="+s.m.Endpoint())
	}
	for _, arg := range c.args {
		args = append(args, names.Replace(arg))
	}
	cmd := exec.CommandContext(ctx, s.tool[0], args...)
	cmd.Env = harness.CleanEnv()
	for _, setting := range c.env {
		cmd.Env = append(cmd.Env, names.Replace(setting))
	}
	cmd.Dir = s.dir
	if c.stdin != "" {
		cmd.Stdin = strings.NewReader(c.stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stderr = &stderr
	var err error
	if c.lines == 0 {
		cmd.Stdout = &stdout
		err = cmd.Run()
	} else {
		err = runLines(cmd, &stdout, c.lines)
	}
	if found := granted.FindStringSubmatch(stdout.String()); found != nil {
		s.granted(found[1])
	} else if found := grantedID.FindStringSubmatch(stdout.String()); found != nil && c.args[0] == "lease" {
		if n, err := strconv.ParseInt(found[1], 10, 64); err == nil && n > 1<<40 {
			s.granted(fmt.Sprintf("%016x", n))
		}
	}
	if found := added.FindStringSubmatch(stdout.String()); found != nil {
		s.added = found[1]
	}
	code := cmd.ProcessState.ExitCode()
	if contains(c.args, "protobuf") {
		text := fields(stdout.Bytes())
		stdout.Reset()
		stdout.WriteString(text)
	}
	if c.lines > 0 && err == nil {
		code = 0
	}
	if ctx.Err() != nil {
		return "did not end\n" + s.mask(stdout.String()) + s.mask(stderr.String())
	}
	out := s.mask(stdout.String())
	if c.mixed {
		pieces := strings.Split(pieceEnds.ReplaceAllString(out, "\n"), "\n")
		slices.Sort(pieces)
		out = joinLines(pieces)
	}
	return fmt.Sprintf("%s%sexit %d\n", out, mark(s.mask(stderr.String())), code)
}

func (s *shell) granted(lease string) {
	lease = strings.TrimLeft(lease, "0")
	if s.lease = lease; !contains(s.leases, lease) {
		s.leases = append(s.leases, lease)
	}
}

func contains(list []string, one string) bool {
	for _, other := range list {
		if one == other {
			return true
		}
	}
	return false
}

// mark shows lines of standard error as such.
func mark(text string) string {
	var out strings.Builder
	for _, line := range splitLines(strings.TrimRight(text, "\n")) {
		if line != "" {
			fmt.Fprintf(&out, "2> %s\n", line)
		}
	}
	return out.String()
}

// runLines reads n lines and then interrupts the command, as a user would by Ctrl-C.
func runLines(cmd *exec.Cmd, out *bytes.Buffer, n int) error {
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	reader := bufio.NewReader(pipe)
	for range n {
		line, err := reader.ReadString('\n')
		out.WriteString(line)
		if err != nil {
			return cmd.Wait() // it ended before: that shows in its exit code
		}
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_, _ = io.Copy(io.Discard, reader)
	_ = cmd.Wait()
	return nil
}

// TestEtcdctl runs the real etcdctl against both servers.
func TestEtcdctl(t *testing.T) {
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	p := launchPair(t)
	var shells []*shell
	for _, m := range p {
		shells = append(shells, newShell(t, m, tools.Etcdctl))
	}
	corpus(t, filepath.Join("testdata", "etcdctl.txt"), []string{"etcdctl on etcd", "etcdctl on ours"}, shells)
}

// corpus runs every command of a file in every shell and compares with the first.
func corpus(t *testing.T, file string, names []string, shells []*shell) {
	t.Helper()
	commands := parseCorpus(t, file)
	for _, c := range commands {
		start := time.Now()
		out := make([]string, len(shells))
		done := make(chan int)
		for i, s := range shells {
			go func() { out[i] = s.run(t.Context(), c); done <- i }()
		}
		for range shells {
			<-done
		}
		for i := range out[1:] {
			if out[0] != out[i+1] {
				t.Errorf("%s:%d: %s\n%s:\n%s%s:\n%s", file, c.line, c.text, names[0], out[0], names[i+1], out[i+1])
			}
		}
		if testing.Verbose() {
			t.Logf("%d: %s (%s)\n%s", c.line, c.text, time.Since(start).Round(time.Millisecond), out[0])
		}
		for _, s := range shells {
			if !s.m.Running() {
				t.Fatalf("%s ended: %s\n%s", s.m.Kind, s.m.ExitText(), s.m.LogTail(20))
			}
		}
	}
	if !t.Failed() {
		t.Logf("evidence: %d commands of %s print the same by %s", len(commands), filepath.Base(file),
			strings.Join(names, " and by "))
	}
}

// ownTools are etcd's tools and ours, where ours are what is compared.
func ownTools(t *testing.T) *harness.Tools {
	t.Helper()
	if realTwice() {
		t.Skip("needs quorate's own tools")
	}
	tools, err := harness.LoadTools()
	if err != nil {
		t.Fatal(err)
	}
	return tools
}
