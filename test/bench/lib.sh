# Sourced by run.sh: running things in pairs, judging them, printing them.

B=$TL_TMP/bench # what is built or generated
R=$B/rows.csv   # one line a row
cores=$(nproc)
# as many of them as 16 sessions can be shared out to
for shares in 16 8 4 2 1; do [ $shares -gt "$cores" ] || break; done

say() { printf '# %s\n' "$*" >&2; }
fatal() {
	printf 'bench: %s\n' "$*" >&2
	exit 1
}
pg() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$1" </dev/null; }

# whatever awk makes of an expression
calc() { awk "BEGIN { printf \"%.6g\", $* }"; }

# --- databases

# new_db NAME: a database with the extension, the helpers and a worker
new_db() {
	export PGDATABASE=$1
	dropdb --if-exists -f "$1" 2>/dev/null
	createdb -T template0 "$1"
	sql "CREATE EXTENSION turn_liveness"
	pg -v noop="$B/noop" -f test/bench/sql/helpers.sql
	wait_for "the worker of $1" "SELECT worker_state = 'running' FROM turn_liveness.stat_row()"
}
drop_db() {
	local db
	for db; do
		PGDATABASE=postgres dropdb --if-exists -f "$db" 2>/dev/null
		unset "have[$db]"
	done
	export PGDATABASE=postgres
}
# want_db NAME: for a database that several rows use; false when it is new
declare -A have
want_db() {
	if [ -n "${have[$1]-}" ]; then
		export PGDATABASE=$1
		return 0
	fi
	new_db "$1"
	have[$1]=yes
	return 1
}
wait_for() { # wait_for WHAT QUERY: until it says t
	local i
	for ((i = 0; i < 600; i++)); do
		[ "$(sql "$2")" != t ] || return 0
		sleep 0.1
	done
	fatal "$1: still waiting after a minute"
}

# db_set SETTING: ALTER DATABASE ... SET or RESET of one of our settings, until the
# worker goes by it: from that commit on it counts as not running, until a
# new one that has read the setting does.
db_set() {
	sql "ALTER DATABASE $PGDATABASE $1"
	wait_for "the worker of $PGDATABASE" "SELECT worker_state = 'running' FROM turn_liveness.stat_row()"
}

# leases N: from here on there is room for so many.  A row has as many as its turns
# and their deployments need, and a third more, as the README tells its users: in a
# larger table each session would touch more pages for the first time, each a fault.
leases() {
	[ "$(sql "SHOW turn_liveness.lease_capacity")" != "$1" ] || return 0
	unlisten
	million_end
	tl_server_restart "turn_liveness.lease_capacity = $1"
}

# --- load

# postmaster: its process id
postmaster() { head -n 1 "$TL_SERVER/data/postmaster.pid"; }

# sessions: process ids of this database's sessions, also of those that have
# ended, until the postmaster knows
sessions() {
	perl -e '
		my ($postmaster, $db) = @ARGV;
		for my $dir (glob "/proc/[0-9]*") {
			open my $f, "<", "$dir/stat" or next;
			next unless (<$f> // "") =~ /.*\) \S (\d+) / && $1 == $postmaster;
			my $title = open($f, "<", "$dir/cmdline") ? <$f> // "" : "";
			print substr($dir, 6), "\n" if $title eq "" || $title =~ / \Q$db\E \[/;
		}' "$(postmaster)" "$PGDATABASE" | sort
}
wait_gone() { # wait_gone SESSIONS: until there are no others than these
	local i
	for ((i = 0; i < 1200; i++)); do
		[ -n "$(comm -13 <(printf '%s\n' "$1") <(sessions))" ] || return 0
		sleep 0.05
	done
	fatal "sessions of $PGDATABASE did not end"
}
# server_us: CPU that the server has used, in microseconds
server_us() { perl test/bench/slices.pl "$(postmaster)"; }
# load_cpu WAY LOAD-ARGS...: load, and how much CPU of the server each
# transaction took: a line for WAY, less at the mercy of others than the clock
load_cpu() {
	local way=$1 before after
	shift
	if [ -n "$command_to" ]; then
		load "$@"
		return
	fi
	before=$(server_us)
	load "$@"
	after=$(server_us)
	awk -v us=$((after - before)) '/actually processed/ { printf "%.1f\n", us / $NF }' "$B/pgbench.out" >>"$B/cpu.$way"
}
cpu_result() { # cpu_result ROW MEASURE OURS AGAINST OTHER: of the last pairs
	local a b
	a=$(tail -n "$npairs" "$B/cpu.$3" | median)
	b=$(tail -n "$npairs" "$B/cpu.$5" | median)
	result "$1" "$2" "$(human "$a")" "$4" "$(human "$b")" "$(calc "$a / $b")" "" "" -
}

# A script's first lines: each session once touches shared memory, but for the
# buffers, where there is time for that before its calls count.  What first touches
# cost is not to count, and sessions would go on touching pages of leases and of WAL
# for the first time for minutes.
touch=$(printf '%s\n' '\if :cold' \
	"SELECT bench.touch(name, size) FROM pg_shmem_allocations WHERE name NOT IN ('<anonymous>', 'Buffer Blocks');" \
	'\set cold 0' '\endif')

# load SECONDS CLIENTS PGBENCH-ARGS...: transactions a second, after $warm seconds in
# which the sessions open their tables and touch each page of shared memory for the
# first time.  When it returns, its sessions have ended, with the statistics and the
# CPU that they leave behind.
warm=0
command_to= # a file that gets the command instead, see sliced
pinned=0    # on so many cores, each with its part of the sessions
load() {
	local seconds=$1 clients=$2 threads before
	shift 2
	threads=$((clients < cores ? clients : cores))
	if [ -n "$command_to" ]; then
		if [ "$pinned" != 0 ]; then clients=$((clients / pinned)) threads=1; fi
		printf '%q ' env "PGDATABASE=$PGDATABASE" "PGOPTIONS=${PGOPTIONS-}" \
			pgbench -n -M prepared -c "$clients" -j "$threads" -T 36000 -P 1 --progress-timestamp -D cold=1 "$@" >"$command_to"
		return
	fi
	before=$(sessions)
	pgbench -n -M prepared -c "$clients" -j "$threads" -T $((warm + seconds)) -P 1 -D cold=$((warm > 0)) "$@" >"$B/pgbench.out" 2>&1 </dev/null || {
		cat "$B/pgbench.out" >&2
		return 1
	}
	wait_gone "$before"
	! grep -E 'aborted|ERROR' "$B/pgbench.out" >&2 || return 1
	awk -v warm="$warm" '
		/^progress:/ { if ($2 > warm + 0.5) { n += $4 * ($2 - last); t += $2 - last } last = $2 }
		/^tps = / { whole = $3 }
		END { printf "%.6g\n", t ? n / t : whole }' "$B/pgbench.out"
}

# --- pairs

# pairs ROW N A B: run the functions A and B in turn N times, A B A B; each
# prints one number.  Sets ours, other (medians), rmin, rmed, rmax: of the
# pairs' ratios ours / other, or of the differences where pair_op is "diff";
# their number npairs; and noise: how far one round of B is from the next, in percent, in the median.
pair_op=ratio
noise=
pairs() {
	local row=$1 n=$2 i a b
	: >"$B/pairs.$row"
	for ((i = 1; i <= n; i++)); do
		a=$("$3") || return 1
		b=$("$4") || return 1
		echo "$a $b" >>"$B/pairs.$row"
	done
	paired_up "$row" "$n"
}
# sliced ROW N SLICE A B: the same of two functions that call load, for $T seconds
# each.  In each pair A, B, and B a second time take turns of SLICE seconds on
# sessions that stay, and with pinned stay on their core.  noise is how far one B
# is from the other in the same pair.
sliced() {
	local row=$1 n=$2 slice=$3 i before
	: >"$B/pairs.$row"
	before=$(sessions)
	for ((i = 1; i <= n; i++)); do
		rm -f "$B"/slices.out.*
		command_to=$B/way.1 "$4"
		command_to=$B/way.2 "$5"
		command_to=$B/way.3 "$5"
		perl test/bench/slices.pl "$(postmaster)" "$pinned" "$slice" "$((warm + 1))" "$T" "$B/slices.out" \
			"$(<"$B/way.1")" "$(<"$B/way.2")" "$(<"$B/way.3")" >"$B/slices" || return 1
		wait_gone "$before"
		! grep -hE 'aborted|ERROR' "$B"/slices.out.* >&2 || return 1
		awk '{ printf "%s ", $1 } END { print "" }' "$B/slices" >>"$B/pairs.$row"
		awk 'NR == 1 { print $2 }' "$B/slices" >>"$B/cpu.$4"
		awk 'NR == 2 { print $2 }' "$B/slices" >>"$B/cpu.$5"
	done
	paired_up "$row" "$n"
}
# what the pairs of a row come to: lines of A, B, and maybe B again
paired_up() {
	npairs=$2
	awk -v row="$1" '{ print row "," NR "," $1 "," $2 }' "$B/pairs.$1" >>"$B/pairs.csv"
	read -r ours other rmin rmed rmax noise < <(pair_op=$pair_op perl -ane '
		push @a, $F[0]; push @b, $F[1];
		push @r, $ENV{pair_op} eq "diff" ? $F[0] - $F[1] : $F[1] ? $F[0] / $F[1] : 0;
		push @n, 100 * abs($F[2] / $F[1] - 1) if @F > 2;
		END {
			sub med { my @s = sort { $a <=> $b } @_; ($s[$#s / 2] + $s[($#s + 1) / 2]) / 2 }
			my @s = sort { $a <=> $b } @r;
			@n = map { $b[$_] > 0 && $b[$_ - 1] > 0 ? 100 * abs($b[$_] / $b[$_ - 1] - 1) : 0 } 1 .. $#b if !@n;
			printf "%.6g %.6g %.4g %.4g %.4g %.1f\n", med(@a), med(@b), $s[0], med(@r), $s[-1], @n ? med(@n) : 0
		}' "$B/pairs.$1")
}

# median of the numbers on standard input
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "%.6g\n", (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2 }'; }
# quantile Q < numbers
quantile() { sort -g | awk -v q="$1" '{ v[NR] = $1 } END { if (NR) { i = int(q * NR + 0.999999); if (i < 1) i = 1; print v[i] } }'; }

# result ROW MEASURE OURS AGAINST OTHER VALUE MIN MAX BAR
# BAR is "ge 0.92", "le 4096 B" or "-"; VALUE is what the bar is held against.
result() {
	local row=$1 measure=$2 a=$3 against=$4 b=$5 value=$6 min=$7 max=$8 bar=$9 verdict=-
	case $bar in
	ge\ *) verdict=$(awk "BEGIN { print ($value >= $(cut -d' ' -f2 <<<"$bar")) ? \"held\" : \"SHORT\" }") ;;
	le\ *) verdict=$(awk "BEGIN { print ($value <= $(cut -d' ' -f2 <<<"$bar")) ? \"held\" : \"SHORT\" }") ;;
	esac
	printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$row" "$measure" "$a" "$against" "$b" "$min" "$value" "$max" "$bar" "$verdict" "${noise:+$noise %}" >>"$R"
	say "$row: $measure: $a against $against $b: $value ($min .. $max), bar $bar: $verdict${noise:+; noise $noise %}"
	noise=
}
# result of the last pairs
paired() { # paired ROW MEASURE AGAINST BAR
	result "$1" "$2" "$(human "$ours")" "$3" "$(human "$other")" "$rmed" "$rmin" "$rmax" "$4"
}
human() { awk -v v="$1" 'BEGIN { if (v >= 100) printf "%.0f", v; else printf "%.3g", v }'; }

# --- points of the plots

# point PLOT SERIES X Y
# measured PLOT SERIES X COMMAND...: with what the command prints as Y
measured() {
	local y
	y=$("${@:4}") || return 1
	point "$1" "$2" "$3" "$y"
}
point() { # a second figure for the same X is left out
	grep -qs "^$2	$3	" "$B/plot.$1" || printf '%s\t%s\t%s\n' "$2" "$3" "$4" >>"$B/plot.$1"
}

# --- listeners: sessions that LISTEN and read, as gateways do

# Their standard output is $B/listen.out.
listeners=
listen() { # listen N CHANNEL...
	rm -f "$B/listen.out"
	"$B/client" "${listen_mode:-listen}" "$@" >"$B/listen.out" &
	listeners=$!
	until [ -s "$B/listen.out" ]; do
		kill -0 "$listeners" 2>/dev/null || fatal "the listeners did not start"
		sleep 0.05
	done
}
unlisten() {
	if [ -n "$listeners" ]; then
		{ kill "$listeners" && wait "$listeners"; } 2>/dev/null || true
	fi
	listeners=
}
