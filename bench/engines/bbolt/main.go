// The load of ../src/main.rs on bbolt, with etcd's settings for it.
package main

import (
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

const (
	batch  = 1000
	gets   = 500_000
	scan   = 10_000
	scans  = 100
	length = 256
)

var bucket = []byte("key")

func key(row uint64) []byte {
	k := make([]byte, 17)
	binary.BigEndian.PutUint64(k, row)
	k[8] = '_'
	return k
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func cpuMicros() float64 {
	var u syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Sec+u.Stime.Sec)*1e6 + float64(u.Utime.Usec+u.Stime.Usec)
}

func measure(what string, operations uint64, work func()) {
	wall, cpu := time.Now(), cpuMicros()
	work()
	fmt.Printf("  %-8s %7.2f us CPU an operation   %6.2f s wall\n",
		what, (cpuMicros()-cpu)/float64(operations), time.Since(wall).Seconds())
}

func main() {
	rows := uint64(2_000_000)
	if len(os.Args) > 1 {
		n, err := strconv.ParseUint(os.Args[1], 10, 64)
		must(err)
		rows = n
	}
	dir, err := os.MkdirTemp("", "bbolt")
	must(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	must(err)
	must(db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }))
	value := make([]byte, length)

	fmt.Println("bbolt")
	measure("append", rows, func() {
		for first := uint64(0); first < rows; first += batch {
			must(db.Update(func(tx *bbolt.Tx) error {
				b := tx.Bucket(bucket)
				b.FillPercent = 0.9
				for row := first; row < first+batch; row++ {
					if err := b.Put(key(row), value); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	})
	rng := rand.New(rand.NewSource(1))
	measure("get", gets, func() {
		for i := 0; i < gets; i++ {
			must(db.View(func(tx *bbolt.Tx) error {
				if len(tx.Bucket(bucket).Get(key(uint64(rng.Int63n(int64(rows)))))) != length {
					panic("row is missing")
				}
				return nil
			}))
		}
	})
	measure("scan row", scans*scan, func() {
		for i := 0; i < scans; i++ {
			must(db.View(func(tx *bbolt.Tx) error {
				c := tx.Bucket(bucket).Cursor()
				sum := 0
				k, v := c.Seek(key(uint64(rng.Int63n(int64(rows - scan)))))
				for n := 0; n < scan && k != nil; n++ {
					sum += len(v)
					k, v = c.Next()
				}
				if sum != scan*length {
					panic("scan is short")
				}
				return nil
			}))
		}
	})
	measure("delete", rows*9/10, func() {
		for first := uint64(0); first < rows; first += batch {
			must(db.Update(func(tx *bbolt.Tx) error {
				b := tx.Bucket(bucket)
				b.FillPercent = 0.9
				for row := first; row < first+batch; row++ {
					if row%10 != 0 {
						if err := b.Delete(key(row)); err != nil {
							return err
						}
					}
				}
				return nil
			}))
		}
	})
	info, err := os.Stat(path)
	must(err)
	fmt.Printf("  file     %7.1f MiB\n", float64(info.Size())/1048576)
}
