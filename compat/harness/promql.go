package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
)

var promql = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(Root(), "bin", "promql")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir = filepath.Join(Root(), "promql")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building promql: %w\n%s", err, out)
	}
	return bin, nil
})

// Promql asks Prometheus' own engine (see promql/main.go); question and answer are JSON.
func Promql(question, answer any, args ...string) error {
	bin, err := promql()
	if err != nil {
		return err
	}
	input, err := json.Marshal(question)
	if err != nil {
		return err
	}
	var said, complaints bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &said, &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("promql %v: %w\n%s", args, err, complaints.String())
	}
	return json.Unmarshal(said.Bytes(), answer)
}
