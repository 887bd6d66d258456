#!/bin/sh
# Shows a live migration on this machine: three members of real etcd become three of Quorate, one
# after the other, by new members that join; then they go back, in place, on the same directories.
# An application works on the cluster all the while, and says at the end what it noticed.
#
#   scripts/migrate-live.sh
#
# docs/migration.md explains the steps. Every command that an operator would type is printed with a
# `$` before it. ETCD, ETCDCTL and QUORATE name the binaries; without them, etcd and etcdctl are
# built from the Go modules that compat/ pins, and Quorate is the release build. PORT is the first of
# the ports that are used (23790).
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin=$root/compat/bin
QUORATE=${QUORATE:-$root/target/release/quorate}
PORT=${PORT:-23790}
WRITES=${WRITES:-3} # seconds in which the application works between two steps
dir=$(mktemp -d)

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Ends what was started here, and nothing else.
cleanup() {
    for file in "$dir"/*.pid; do
        [ -f "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null || :
    done
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

[ -f "$QUORATE" ] && [ -x "$QUORATE" ] || fail "no $QUORATE; build it (cargo build --release) or name it in QUORATE"
if [ -z "${ETCD:-}" ] || [ -z "${ETCDCTL:-}" ]; then
    say "building real etcd"
    (cd "$root/compat" && go build -o bin/ ./cmd/etcd ./cmd/etcdctl)
    ETCD=$bin/etcd ETCDCTL=$bin/etcdctl
fi
(cd "$root/compat" && go build -o bin/ ./cmd/load)

client() { echo "http://127.0.0.1:$((PORT + 10 * $1))"; }
peer() { echo "http://127.0.0.1:$((PORT + 10 * $1 + 1))"; }

# The members that are there, by number: 1 to 3 at first.
members="1 2 3"
endpoints() {
    list=
    for n in $members; do list=$list,$(client "$n"); done
    echo "${list#,}"
}
initial() {
    list=
    for n in $members; do list=$list,m$n=$(peer "$n"); done
    echo "${list#,}"
}
ctl() {
    printf '$ etcdctl %s\n' "$*"
    "$ETCDCTL" --endpoints="$(endpoints)" "$@"
}
# ask is ctl without a word.
ask() { "$ETCDCTL" --endpoints="$(endpoints)" "$@"; }

# start PRODUCT NUMBER STATE: starts a member and waits until it is healthy.
start() {
    program=$ETCD
    [ "$1" = etcd ] || program=$QUORATE
    printf '$ %s --name m%s --initial-cluster-state %s --initial-cluster %s ...\n' \
        "$1" "$2" "$3" "$(initial)"
    "$program" --name "m$2" --data-dir "$dir/m$2.etcd" \
        --listen-client-urls "$(client "$2")" --advertise-client-urls "$(client "$2")" \
        --listen-peer-urls "$(peer "$2")" --initial-advertise-peer-urls "$(peer "$2")" \
        --initial-cluster "$(initial)" --initial-cluster-state "$3" \
        >>"$dir/m$2.log" 2>&1 &
    echo $! >"$dir/m$2.pid"
}
healthy() {
    for _ in $(seq 300); do
        "$ETCDCTL" --endpoints="$(client "$1")" endpoint health >/dev/null 2>&1 && return
        running "$1" || break
        sleep 0.1
    done
    tail -5 "$dir/m$1.log" >&2
    fail "m$1 does not become healthy"
}
running() { kill -0 "$(cat "$dir/m$1.pid")" 2>/dev/null; }
# gone NUMBER: waits until a member's process has ended.
gone() {
    for _ in $(seq 300); do
        running "$1" || return 0
        sleep 0.1
    done
    fail "m$1 runs on"
}
id() { ask member list | sed -n "s/^\([0-9a-f]*\), [a-z]*, m$1, .*/\1/p"; }
leader() { ask endpoint status | awk -F ', ' '$9 == "true" { print $2 }'; }
# again COMMAND: what is refused while a new member is not yet connected, or not yet up to date, is
# granted a little later.
again() {
    printf '$ etcdctl %s\n' "$*"
    for _ in $(seq 300); do
        "$ETCDCTL" --endpoints="$(endpoints)" "$@" >"$dir/said" 2>&1 && return
        sleep 0.2
    done
    cat "$dir/said" >&2
    fail "refused for a minute"
}
table() { ctl endpoint status -w table; }

say "three members of real etcd"
for n in 1 2 3; do start etcd $n new; done
for n in 1 2 3; do healthy $n; done
table

say "an application begins to work"
"$bin/load" --endpoints "$(endpoints)" >"$dir/load.out" 2>&1 &
load=$!
echo $load >"$dir/load.pid"
sleep "$WRITES"

say "to Quorate: a new member learns, votes, and an old one goes"
for old in 1 2 3; do
    new=$((old + 3))
    again member add m$new --peer-urls="$(peer $new)" --learner
    members="$members $new"
    start quorate $new existing
    members=${members% *} # it answers no client's reads before it votes
    sleep 0.5
    joined=$(ask member list | sed -n "s#^\([0-9a-f]*\), [a-z]*, [^,]*, $(peer $new), .*#\1#p")
    again member promote "$joined"
    members="$members $new"
    healthy $new
    if [ "$(leader)" = "$(id $old)" ]; then
        printf '$ etcdctl --endpoints=%s move-leader %s\n' "$(client $old)" "$joined"
        "$ETCDCTL" --endpoints="$(client $old)" move-leader "$joined"
    fi
    leaving=$(id $old)
    members=$(echo "$members" | sed "s/$old //")
    again member remove "$leaving"
    gone $old
    sleep "$WRITES"
done
table
for n in $members; do
    grep -q quorate-version "$dir/m$n.log" || fail "m$n is not Quorate"
done

say "and back to etcd, in place: each member stops, and etcd starts on its directory"
for n in $members; do
    printf '$ kill PID-OF-M%s\n' "$n"
    kill "$(cat "$dir/m$n.pid")"
    gone "$n"
    start etcd "$n" existing
    healthy "$n"
    sleep "$WRITES"
done
table

say "what the application noticed"
kill $load
if ! wait $load; then
    cat "$dir/load.out"
    fail "it noticed more than delays"
fi
rm -f "$dir/load.pid"
cat "$dir/load.out"
for n in $members; do kill "$(cat "$dir/m$n.pid")"; done
for n in $members; do gone "$n"; done
