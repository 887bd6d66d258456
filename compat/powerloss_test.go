package compat

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate/compat/harness"
)

// expectation is what the maker of an image knows about it.
type expectation struct {
	AcknowledgedRevision int64 `json:"acknowledged_revision"`
	Revision             int64 // what the log in the image amounts to
	CompactRevision      int64 `json:"compact_revision"`
	// HashKV by revision, computed by replaying the log.
	HashKV map[string]uint32 `json:"hash_kv"`
}

// TestPowerLoss opens directories as a power loss would leave them: written by the simulated disk
// that lost or tore what was not synced. Both products must start on each, agree, and miss nothing
// that was acknowledged.
func TestPowerLoss(t *testing.T) {
	t.Parallel() // mostly waiting, as the others that say so
	images := os.Getenv("COMPAT_IMAGES")
	if images == "" {
		images = makeImages(t)
	}
	found, err := filepath.Glob(filepath.Join(images, "*", "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no images in %s", images)
	}
	t.Run("image", func(t *testing.T) {
		for _, file := range found {
			t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
				t.Parallel() // mostly waiting for servers to start and to sync
				powerLoss(t, filepath.Dir(file))
			})
		}
	})
	if !t.Failed() {
		t.Logf("evidence: %d directories after power losses, opened by real etcd and by ours", len(found))
	}
}

func makeImages(t *testing.T) string {
	t.Helper()
	root := filepath.Join(harness.Root(), "..")
	if _, err := os.Stat(filepath.Join(root, "crates", "worker", "examples", "crash_images.rs")); err != nil {
		t.Skip("crates/worker has no example crash_images yet")
	}
	out := t.TempDir()
	seed := harness.EnvInt(t, "COMPAT_SEED", int(time.Now().UnixNano()%1_000_000))
	count := harness.EnvInt(t, "COMPAT_IMAGE_COUNT", 20)
	// Not optimized, as the tests of the workspace are: compiling it otherwise takes longer than it runs.
	make := exec.Command("cargo", "run", "--quiet", "-p", "worker", "--example", "crash_images", "--",
		out, strconv.Itoa(seed), strconv.Itoa(count))
	make.Dir = root
	t.Logf("seed %d", seed)
	if text, err := make.CombinedOutput(); err != nil {
		t.Fatalf("making images: %v\n%s", err, text)
	}
	return out
}

// dataDir finds the directory that holds member/.
func dataDir(image string) string {
	found := image
	_ = filepath.WalkDir(image, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == "member" {
			found = filepath.Dir(path)
			return fs.SkipAll
		}
		return nil
	})
	return found
}

func powerLoss(t *testing.T, image string) {
	var want expectation
	text, err := os.ReadFile(filepath.Join(image, "expect.json"))
	if err == nil {
		err = json.Unmarshal(text, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	var seen [2]string
	m := harness.Prepare(t, harness.Real)
	for kind := range seen {
		m.Kind = harness.Kind(kind)
		if err := os.RemoveAll(m.Dir); err != nil {
			t.Fatal(err)
		}
		harness.CopyDir(t, dataDir(image), m.Dir)
		harness.MustStart(t, m)
		seen[kind] = state(t, m)
		checkExpectation(t, m, want)
		harness.MustStop(t, m)
		if err := harness.CheckDir(m.Dir); err != nil {
			t.Errorf("after %s: %v", m.Kind, err)
		}
	}
	if seen[0] != seen[1] {
		t.Errorf("etcd (before) and ours (after) read the image differently\n%s", differences(seen[0], seen[1]))
	}
}

func checkExpectation(t *testing.T, m *harness.Member, want expectation) {
	t.Helper()
	client := m.Client()
	defer client.Close()
	p, err := client.Get(t.Context(), "any", clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if p.Header.Revision < want.AcknowledgedRevision {
		t.Errorf("%s is at revision %d, %d was acknowledged", m.Kind, p.Header.Revision,
			want.AcknowledgedRevision)
	}
	if want.Revision != 0 && p.Header.Revision != want.Revision {
		t.Errorf("%s is at revision %d, the log amounts to %d", m.Kind, p.Header.Revision, want.Revision)
	}
	for at, hash := range want.HashKV {
		revision, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.HashKV(t.Context(), m.Endpoint(), revision)
		if err != nil {
			t.Errorf("%s: HashKV at %d: %v", m.Kind, revision, err)
		} else if got.Hash != hash {
			t.Errorf("%s: HashKV at %d is %d, %d expected", m.Kind, revision, got.Hash, hash)
		}
	}
}
