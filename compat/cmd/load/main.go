// An application at work on a cluster: it writes, reads and watches through the Go client until it is
// interrupted, tries again what failed, and then says what it noticed. It fails if a request failed in
// the end, a revision went back, the watch missed something, or members tell different histories.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"quorate/compat/harness"
)

func main() {
	endpoints := flag.String("endpoints", "127.0.0.1:2379", "clients' endpoints of some members")
	workers := flag.Int("workers", 6, "requests at once")
	seed := flag.Int64("seed", 1, "of the random requests")
	flag.Parse()
	load, err := harness.NewLoad(strings.Split(*endpoints, ","))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	load.Start(*workers, *seed)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt, syscall.SIGTERM)
	every := time.NewTicker(time.Second)
wait:
	for {
		select {
		case <-ended:
			break wait
		case <-every.C:
			if since := load.SinceAck(); since > 2*time.Second {
				fmt.Printf("no write was answered for %s\n", since.Round(time.Second/10))
			}
		}
	}
	members, problems := load.Members(), load.Stop()
	fmt.Println("evidence:", load.Summary())
	told, err := compare(load, members)
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, problem := range append(problems, told...) {
		fmt.Println("problem:", problem)
	}
	if len(problems)+len(told) > 0 {
		os.Exit(1)
	}
	fmt.Println("evidence: no request failed in the end, no revision went back, the watch missed nothing, and",
		len(members), "members tell the same history")
}

// compare reads the history from every member, and checks it against what the load was told.
func compare(load *harness.Load, members []string) ([]string, error) {
	var first []harness.Event
	revision := int64(0)
	for _, endpoint := range members {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
		if err != nil {
			return nil, err
		}
		defer client.Close()
		if revision == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), harness.ReadMax)
			defer cancel()
			now, err := client.Get(ctx, "any")
			if err != nil {
				return nil, err
			}
			revision = now.Header.Revision
		}
		history, err := harness.HistoryOver(client.ActiveConnection(), revision)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", endpoint, err)
		}
		if first == nil {
			first = history
		} else if !slices.Equal(first, history) {
			return nil, fmt.Errorf("%s tells another history than %s", endpoint, members[0])
		}
	}
	return load.Check(first), nil
}
