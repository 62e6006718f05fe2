#!/usr/bin/env bash
set -eu
mode=quick
case ${1-} in quick | long) mode=$1; shift ;; esac
. test/harness/server.sh
. test/bench/lib.sh
rm -rf "$B"
mkdir -p "$B"
if [ $mode = quick ]; then N=5 T=1; else N=11 T=5; fi
N=${BENCH_PAIRS:-$N} T=${BENCH_SECONDS:-$T}
cp test/bench/noop.* "$B"
make -s -C "$B" -f noop.mk PG_CONFIG="$TL_PG_CONFIG" with_llvm=no >"$B/build.log" 2>&1 || { cat "$B/build.log"; exit 1; }
tl_server_restart "max_connections = 200" "shared_buffers = 2GB" "max_wal_size = 32GB" "checkpoint_timeout = 1h" \
	"max_worker_processes = 16" "turn_liveness.lease_capacity = 1100000"
for f in test/bench/rows/*.sh; do . "$f"; done
rows=("$@")
for r in "${rows[@]}"; do "row_$r"; done
cat "$R"
