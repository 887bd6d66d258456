package compat

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func init() {
	type P = pb.PutRequest
	type D = pb.DeleteRangeRequest
	register("put",
		Case{Name: "create", Run: func(c *C) { c.PutReq(&P{Key: b("a"), Value: b("1")}); c.All() }},
		Case{Name: "overwrite", Run: func(c *C) {
			c.PutReq(&P{Key: b("a"), Value: b("1")})
			c.PutReq(&P{Key: b("a"), Value: b("1")})
			c.All()
		}},
		Case{Name: "empty key", Run: func(c *C) { c.PutReq(&P{Value: b("1")}) }},
		Case{Name: "empty value", Run: func(c *C) { c.PutReq(&P{Key: b("a")}); c.All() }},
		Case{Name: "prev_kv", Run: func(c *C) {
			c.PutReq(&P{Key: b("a"), Value: b("1"), PrevKv: true})
			c.PutReq(&P{Key: b("a"), Value: b("2"), PrevKv: true})
			c.Delete("a")
			c.PutReq(&P{Key: b("a"), Value: b("3"), PrevKv: true})
		}},
		Case{Name: "prev_kv shows the lease", Run: func(c *C) {
			c.Grant(5, 100)
			c.PutReq(&P{Key: b("a"), Value: b("1"), Lease: 5})
			c.PutReq(&P{Key: b("a"), Value: b("2"), PrevKv: true})
		}},
		Case{Name: "ignore_value", Run: func(c *C) {
			c.PutReq(&P{Key: b("a"), IgnoreValue: true})
			c.Put("a=1")
			c.PutReq(&P{Key: b("a"), IgnoreValue: true, PrevKv: true})
			c.PutReq(&P{Key: b("a"), Value: b("x"), IgnoreValue: true})
			c.All()
		}},
		Case{Name: "ignore_lease", Run: func(c *C) {
			c.Grant(5, 100)
			c.PutReq(&P{Key: b("a"), Value: b("1"), IgnoreLease: true})
			c.PutReq(&P{Key: b("a"), Value: b("1"), Lease: 5})
			c.PutReq(&P{Key: b("a"), Value: b("2"), IgnoreLease: true})
			c.PutReq(&P{Key: b("a"), Value: b("2"), Lease: 5, IgnoreLease: true})
			c.All()
		}},
		Case{Name: "ignore_value and ignore_lease together", Run: func(c *C) {
			c.Grant(5, 100)
			c.PutReq(&P{Key: b("a"), Value: b("1"), Lease: 5})
			c.PutReq(&P{Key: b("a"), IgnoreValue: true, IgnoreLease: true})
			c.All()
		}},
		Case{Name: "ignore_value with a new lease", Run: func(c *C) {
			c.Put("a=1")
			c.Grant(5, 100)
			c.PutReq(&P{Key: b("a"), IgnoreValue: true, Lease: 5})
			c.All()
		}},
		Case{Name: "order of validation", Run: func(c *C) {
			c.PutReq(&P{Value: b("x"), IgnoreValue: true, Lease: 9, IgnoreLease: true})
			c.PutReq(&P{Key: b("a"), Value: b("x"), IgnoreValue: true, Lease: 9, IgnoreLease: true})
			c.PutReq(&P{Key: b("a"), IgnoreValue: true, Lease: 9, IgnoreLease: true})
			c.PutReq(&P{Key: b("a"), IgnoreValue: true, Lease: 9})
		}},
		Case{Name: "unknown lease", Run: func(c *C) {
			c.PutReq(&P{Key: b("a"), Value: b("1"), Lease: 12345})
			c.PutReq(&P{Key: b("a"), Value: b("1"), Lease: -3})
			c.All()
		}},
		Case{Name: "lease is replaced and removed", Run: func(c *C) {
			c.Grant(5, 100)
			c.Grant(6, 100)
			c.PutReq(&P{Key: b("a"), Value: b("1"), Lease: 5})
			c.PutReq(&P{Key: b("a"), Value: b("2"), Lease: 6})
			c.Revoke(5)
			c.All()
			c.PutReq(&P{Key: b("a"), Value: b("3")})
			c.Revoke(6)
			c.All()
		}},
		Case{Name: "request too large", Run: func(c *C) {
			c.PutReq(&P{Key: b("a"), Value: bytes.Repeat(b("x"), 1572864)})
			c.PutReq(&P{Key: b("a"), Value: bytes.Repeat(b("x"), 1572864-100)})
			c.PutReq(&P{Key: b("a"), Value: bytes.Repeat(b("x"), 2097152)})
			c.All()
		}},
		Case{Name: "many versions", Run: func(c *C) {
			for range 150 {
				c.Put("a=x")
			}
			c.All()
			c.Range(&pb.RangeRequest{Key: b("a"), Revision: c.Rev(128)})
		}},
	)
	register("delete",
		Case{Name: "empty key", Run: func(c *C) { c.Del(&D{}); c.Del(&D{RangeEnd: zero}) }},
		Case{Name: "missing key makes no revision", Run: func(c *C) {
			c.Del(&D{Key: b("a")})
			c.Del(&D{Key: b("a"), PrevKv: true})
		}},
		Case{Name: "one key", Run: func(c *C) { c.Put("a=1", "b=1"); c.Del(&D{Key: b("a")}); c.All() }},
		Case{Name: "twice", Run: func(c *C) { c.Put("a=1"); c.Del(&D{Key: b("a")}); c.Del(&D{Key: b("a")}) }},
		Case{Name: "range is one revision", Run: func(c *C) {
			c.Put("a=1", "b=1", "c=1", "d=1")
			c.Del(&D{Key: b("b"), RangeEnd: b("d")})
			c.All()
		}},
		Case{Name: "prev_kv of a range", Run: func(c *C) {
			c.Grant(5, 100)
			c.Put("c=3", "a=1")
			c.PutReq(&P{Key: b("b"), Value: b("2"), Lease: 5})
			c.Del(&D{Key: b("a"), RangeEnd: zero, PrevKv: true})
		}},
		Case{Name: "end before start", Run: func(c *C) {
			c.Put("a=1", "b=1")
			c.Del(&D{Key: b("b"), RangeEnd: b("a"), PrevKv: true})
			c.All()
		}},
		Case{Name: "everything", Run: func(c *C) {
			c.Put("a=1", "b=1")
			c.Del(&D{Key: zero, RangeEnd: zero})
			c.All()
		}},
		Case{Name: "detaches from the lease", Run: func(c *C) {
			c.Grant(5, 100)
			c.PutReq(&P{Key: b("a"), Value: b("1"), Lease: 5})
			c.Del(&D{Key: b("a")})
			c.Put("a=2")
			c.Revoke(5)
			c.All()
		}},
		Case{Name: "history before the deletion is readable", Run: func(c *C) {
			c.Put("a=1", "b=1")
			c.Del(&D{Key: zero, RangeEnd: zero})
			c.Range(&pb.RangeRequest{Key: zero, RangeEnd: zero, Revision: c.Rev(2)})
		}},
	)
}
