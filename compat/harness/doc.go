// Package harness runs members of real etcd and of Quorate side by side, so that tests can compare
// them answer by answer.
//
// It builds the real binaries from the Go modules pinned in go.mod, starts members on free loopback
// ports, waits until they answer (never for a fixed time), captures their logs and stops them by
// process id. Real etcd always runs with ETCD_VERIFY=all.
package harness
