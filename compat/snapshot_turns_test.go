package compat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"quorate/compat/harness"
)

// snapshotsServed is how many snapshots a member of ours sends to clients at once.
const snapshotsServed = 8

// TestSnapshotTurns: snapshots that nobody reads keep others waiting for their turn, and a turn
// that is given back is used.
func TestSnapshotTurns(t *testing.T) {
	if realTwice() {
		t.Skip("real etcd sends any number at once")
	}
	m := harness.Launch(t, harness.Ours)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range 16 { // far more than what waits in connections
		if _, err := m.Client().Put(ctx, fmt.Sprint(i), string(bytes.Repeat([]byte{byte(i)}, 1<<20))); err != nil {
			t.Fatal(err)
		}
	}
	open := func(ctx context.Context) pb.Maintenance_SnapshotClient {
		conn, err := m.Dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	first, giveUp := context.WithCancel(ctx)
	defer giveUp()
	for i := range snapshotsServed {
		whose := ctx
		if i == 0 {
			whose = first
		}
		if _, err := open(whose).Recv(); err != nil {
			t.Fatalf("snapshot %d: %v", i, err)
		}
	}
	late := open(ctx)
	pieces := make(chan *pb.SnapshotResponse)
	ended := make(chan error, 1)
	go func() {
		for {
			p, err := late.Recv()
			if err != nil {
				ended <- err
				return
			}
			pieces <- p
		}
	}()
	select {
	case <-pieces:
		t.Fatal("one more snapshot is sent than may be at once")
	case err := <-ended:
		t.Fatalf("one more snapshot is refused: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if _, err := m.Client().Put(ctx, "k", "v"); err != nil {
		t.Errorf("a put meanwhile: %v", err)
	}
	giveUp()
	var all []byte
	for {
		select {
		case p := <-pieces:
			all = append(all, p.Blob...)
		case err := <-ended:
			if err != io.EOF {
				t.Fatalf("the snapshot whose turn it is: %v", err)
			}
			file, digest := all[:len(all)-sha256.Size], all[len(all)-sha256.Size:]
			if got := sha256.Sum256(file); !bytes.Equal(got[:], digest) || len(file) < 16<<20 {
				t.Errorf("%d bytes with another digest", len(file))
			}
			return
		}
	}
}
