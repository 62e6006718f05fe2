#!/usr/bin/env bash
#
# run.sh [quick|long] [table | ROW...]
#
# The speed table, row by row, on the throw-away server that the harness has
# started: every ratio from pairs in one run, A B A B, the median of the pairs'
# ratios.  quick (default): some minutes; long: at least 11 pairs, over an hour.
# "table" is all rows but growth, start and pinned, which take half the time.
# Naming rows is for development; "list" names them.
#
# Results go to $TL_OUT (test/bench/results/): table.txt, rows.csv, pairs.csv,
# environment.txt, plots, and what publish.sh takes: README-table.md and
# README-rows.md of a whole table, README-growth.md of the other three rows.
# BENCH_PAIRS and BENCH_SECONDS change the rounds.

set -eu -o pipefail
mode=quick
case ${1-} in
quick | long)
	mode=$1
	shift
	;;
esac

. test/harness/server.sh
. test/bench/lib.sh
. test/bench/report.sh
for file in test/bench/rows/*.sh; do
	# shellcheck disable=SC1090
	. "$file"
done

# The million are armed first: while the peers beat, every one of them gets its
# first beat; while one session after the other sweeps, the minute passes that
# worker_cpu counts.
table=(heartbeat fenced beat_cost heartbeats
	beat_peers beat_million beat_session fetch sweep sweep_peers sweep_live worker_cpu shmem
	turns_bare turns_least turns_origin turns_plain notify notify_off listeners
	life_bare life_wal latency wakeup
	slow_flush)
growth=(growth start pinned)
case ${1-} in
list)
	printf '%s\n' "${table[@]}" "${growth[@]}"
	exit
	;;
'') set -- "${table[@]}" "${growth[@]}" ;;
table) set -- "${table[@]}" ;;
esac

# N pairs where there is a bar, P where there is none; T seconds a round, L where
# what a new session does first must not weigh: 64 of them open tables and their
# indexes, and each page of shared memory costs each a fault when it is touched first.
# W seconds go by before those count.
if [ $mode = quick ]; then N=3 P=3 T=1 L=2 W=2; else N=11 P=5 T=2 L=5 W=3; fi
N=${BENCH_PAIRS:-$N} P=${BENCH_PAIRS:-$P} T=${BENCH_SECONDS:-$T} L=${BENCH_SECONDS:-$L}

rm -rf "$B"
mkdir -p "$B"
at_exit() { # with what was measured before a row failed
	local status=$?
	unlisten
	[ -z "${beater-}" ] || kill "$beater" 2>/dev/null || true
	[ $status = 0 ] || [ ! -s "$R" ] || report
	exit $status
}
trap at_exit EXIT
cp test/bench/noop.* "$B"
make -s -C "$B" -f noop.mk PG_CONFIG="$TL_PG_CONFIG" with_llvm=no >"$B/build.log" 2>&1 || fatal "$(cat "$B/build.log")"
${CC:-gcc} -O2 -Wall -o "$B/client" test/bench/client.c -I"$("$TL_PG_CONFIG" --includedir)" -L"$("$TL_PG_CONFIG" --libdir)" -lpq
${CC:-gcc} -O2 -Wall -shared -fPIC -o "$B/slow_flush.so" test/bench/slow_flush.c -ldl

# No checkpoint falls into a round, nothing is evicted.  Everything else is as it
# comes: fsync, autovacuum, WAL, and the room for leases, but where a row says more.
settings=("max_connections = 300" "shared_buffers = 2GB" "max_wal_size = 64GB" "checkpoint_timeout = 1d"
	"max_worker_processes = 16")
tl_server_restart "${settings[@]}"

load_before=$(cut -d" " -f1 /proc/loadavg)
begun=$(date +%s)
for row; do
	declare -F "row_$row" >/dev/null || fatal "no row is called $row; see: run.sh list"
	t=$(date +%s)
	"row_$row"
	# each group of rows clears up after its last one
	case $row in
	heartbeats) drop_db bench_beat ;;
	worker_cpu) million_end ;;
	sweep_live) drop_db bench_sweep ;;
	esac
	say "$row took $(($(date +%s) - t)) s"
done
unlisten
million_end
report
case " $* " in *" ${table[*]} "*) readme_table ;; esac
case " $* " in *" ${growth[*]} "*) readme_growth ;; esac
say "all of it took $(($(date +%s) - begun)) s"
