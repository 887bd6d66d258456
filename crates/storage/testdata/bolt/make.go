//go:build ignore

// Writes bbolt.db: what bbolt does and Quorate never does itself. Inline buckets, buckets inside
// buckets, sequences, a freelist in the file.
//
// usage, in a module that requires go.etcd.io/bbolt v1.5.0: go run make.go
package main

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	db := must(bbolt.Open("bbolt.db", 0o600, nil))
	update := func(f func(tx *bbolt.Tx) error) {
		if err := db.Update(f); err != nil {
			panic(err)
		}
	}
	update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"empty", "inline", "large", "outer"} {
			bucket := must(tx.CreateBucket([]byte(name)))
			must(bucket.NextSequence())
		}
		inline := tx.Bucket([]byte("inline"))
		inline.Put([]byte("a"), []byte("1"))
		inline.Put([]byte("b"), nil)
		large := tx.Bucket([]byte("large"))
		for row := 0; row < 40; row++ {
			large.Put(fmt.Appendf(nil, "row-%02d", row), bytes.Repeat([]byte{byte(row)}, row*10))
		}
		large.Put([]byte("overflow"), bytes.Repeat([]byte("o"), 9000))
		outer := tx.Bucket([]byte("outer"))
		outer.Put([]byte("plain"), []byte("row"))
		inner := must(outer.CreateBucket([]byte("inner")))
		inner.Put([]byte("x"), []byte("y"))
		innermost := must(inner.CreateBucket([]byte("innermost")))
		innermost.Put([]byte("deep"), bytes.Repeat([]byte("d"), 2000))
		return nil
	})
	update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("large")).Delete([]byte("row-00"))
	})
	if err := db.Close(); err != nil {
		panic(err)
	}
}
