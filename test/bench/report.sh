# Sourced by run.sh: the table, the CSV, the plots, and the tables for the READMEs.

# those of 2 MB that the server has: of the machine's, if it is alone there
huge_pages() { awk '/^HugePages_Total/ { n = $2 } /^HugePages_Free/ { n -= $2 } /^HugePages_Rsvd/ { n += $2 } END { print (n > 0 ? n : "none") }' /proc/meminfo; }
environment() {
	echo "turn_liveness $(sed -n "s/^default_version *= *'\(.*\)'/\1/p" turn_liveness.control), $("$TL_PG_CONFIG" --version), $mode, $(date -u '+%Y-%m-%d %H:%M UTC')"
	echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $cores cores, $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r), load average before: $load_before"
	echo "$N pairs where there is a bar, rounds of $L s where it is close and of $T s elsewhere, $P pairs where there is none; ${settings[*]}; huge pages: $(huge_pages)"
	cat <<-X
		bare SQL: the same row changes in two transactions: insert the turn; in one statement end it,
		  insert the reply and its delivery row.  Columns as ours, no index but the primary keys, no
		  NOTIFY (sql/bare.sql)
		the least SQL: insert a row; in one statement delete it and insert the reply.  Two tables with
		  their keys (sql/least.sql)
		the origin: its statements one by one on its job table with 18 indexes, a NOTIFY of its own
		  (sql/origin.sql)
		PL/pgSQL: the same API with a row for each beat, NOTIFY in the transaction, a sweep for
		  pg_cron (sql/plain.sql)
		Not compared: job queues (pg-boss, graphile-worker, pgmq) do another job; the origin's pause
		  of 15 s between sweeps, its network and its retries are left out, in its favour.
	X
}

report() {
	environment | tee "$TL_OUT/environment.txt"
	echo
	perl -F'\t' -lane '
		BEGIN { push @t, ["measure", "ours", "against", "other", "ratio (min .. max)", "noise", "bar", ""] }
		my ($row, $measure, $a, $against, $b, $min, $value, $max, $bar, $verdict, $noise) = @F;
		my $r = $b eq "-" && $min eq "" ? $value : $min eq "" ? $value : "$value ($min .. $max)";
		$bar =~ s/^ge /at least /; $bar =~ s/^le /at most /;
		push @t, [$measure, $a, $against, $b, $r, $noise // "", $bar, $verdict];
		END {
			for my $row (@t) { for (0 .. 7) { my $l = () = $row->[$_] =~ /[^\x80-\xbf]/g; $w[$_] = $l if $l > ($w[$_] // 0) } }
			for my $row (@t) {
				print join "  ", map { my $l = () = $row->[$_] =~ /[^\x80-\xbf]/g; $row->[$_] . " " x ($w[$_] - $l) } 0 .. 7;
			}
		}' "$R" | sed 's/ *$//' | tee "$TL_OUT/table.txt"
	{
		echo "row,measure,ours,against,other,min,value,max,bar,verdict,noise"
		perl -F'\t' -lane 'print join ",", map { /[",]/ ? do { s/"/""/g; "\"$_\"" } : $_ } @F' "$R"
	} >"$TL_OUT/rows.csv"
	if [ -e "$B/pairs.csv" ]; then { echo "row,pair,ours,other"; cat "$B/pairs.csv"; } >"$TL_OUT/pairs.csv"; fi
	echo
	echo "held $(grep -c '	held	' "$R" || true), short $(grep -c '	SHORT	' "$R" || true), without a bar $(grep -c -- '	-	[^	]*$' "$R" || true)"
	plots
}

# The rows that the top README shows, as text for a regular expression.
readme_rows='heartbeat|beat_cost|turns_bare|life_bare|turns_plain|latency'

# markdown_table ROWS COLUMNS: of the results whose row's name matches ROWS, the first COLUMNS columns
markdown_table() {
	ROWS=$1 COLUMNS=$2 perl -F'\t' -lane '
		BEGIN {
			sub line { print "| " . join(" | ", @_[0 .. $ENV{COLUMNS} - 1]) . " |" }
			line "measure", "ours", "against", "other", "ratio (min .. max)", "noise", "bar", "";
			print "|" . join("|", ("---", "---:", "---", "---:", "---", "---:", "---", "---")[0 .. $ENV{COLUMNS} - 1]) . "|";
		}
		my ($row, $measure, $a, $against, $b, $min, $value, $max, $bar, $verdict, $noise) = map { s/\|/\\|/gr } @F;
		next unless $row =~ /^(?:$ENV{ROWS})$/;
		$value = "$value ($min .. $max)" if $min ne "";
		$bar =~ s/^ge /at least /; $bar =~ s/^le /at most /;
		line map { $_ eq "-" ? "" : $_ } $measure, $a, $against, $b, $value, $noise // "", $bar, $verdict;' "$R"
}

# publish.sh looks for the first line as it stands
wrap() { IFS= read -r first && echo "$first" && fold -s -w 100 | sed 's/ *$//'; }

# the rows of run.sh's $growth, and the others
growth_rows='(?:growth|start|pinned).*'
table_rows='(?!growth|start|pinned).*'

# whence: version and date, machine, settings; publish.sh looks for the first line
whence() { sed -n '1,3p' "$TL_OUT/environment.txt" | sed '$!s/$/./' | wrap; }

# readme_table: what publish.sh puts into test/bench/README.md, and the rows for the
# top README
readme_table() {
	{
		markdown_table "$table_rows" 8
		echo
		whence
		# the peers, one an item
		echo
		sed -e '1,3d' -e 's/^[^ ]/- &/' "$TL_OUT/environment.txt"
		echo
		echo '![turns/s against clients, with and without NOTIFY in the transaction](plots/turns.svg)'
		echo '![beats/s against live turns](plots/beats.svg)'
	} >"$TL_OUT/README-table.md"
	{
		markdown_table "$readme_rows" 6
		echo
		sed -n '1,2p' "$TL_OUT/environment.txt" | sed 's/$/./' | wrap
	} >"$TL_OUT/README-rows.md"
}
readme_growth() {
	{
		markdown_table "$growth_rows" 5
		echo
		whence
		echo
		echo '![sizes while retention is under way](plots/growth_sizes.svg)'
		echo '![what comes and goes meanwhile](plots/growth_turns.svg)'
		echo '![start of a worker](plots/start.svg)'
		echo '![turns/s under an idle transaction](plots/pinned_turns.svg)'
		echo '![sizes under an idle transaction](plots/pinned_sizes.svg)'
	} >"$TL_OUT/README-growth.md"
}

# lines FILE NAME TITLE XLABEL YLABEL [LOGSCALE]: one line for each series
lines() {
	# a point is no line
	[ -s "$B/$1" ] && [ "$(cut -f2 "$B/$1" | sort -u | wc -l)" -gt 1 ] || return 0
	local series what=() log=${6-} point="pointtype 7 pointsize 0.5"
	[ -n "$log" ] || point="pointtype 7 pointsize 0.2" # over time
	while read -r series; do
		what+=("'<grep \"^$series	\" $B/$1 | sort -t \"	\" -g -k 2' using 2:3 with linespoints linewidth 2 $point title '$series'")
	done < <(cut -f1 "$B/$1" | awk '!s[$0]++')
	cp "$B/$1" "$TL_OUT/$2.tsv"
	gnuplot <<-X
		set terminal svg size 640,400 background '#ffffff' font 'sans-serif,13'
		set output '$TL_OUT/$2.svg'
		set datafile separator "\t"
		set title '$3'
		set xlabel '$4'
		set ylabel '$5'
		${log:+set logscale $log}
		${log:+set xtics ($(cut -f2 "$B/$1" | sort -gu | paste -sd,))}
		set format x '%.0f'
		set rmargin 8
		set grid
		set key outside below
		set yrange [$([ "$log" = xy ] || echo 0):]
		plot $(IFS=,; echo "${what[*]}")
	X
}
plots() {
	lines plot.beats beats "Beats, 16 clients" "live turns" "beats/s" xy
	lines plot.turns turns "Turns, ten sessions listening" "clients" "turns/s" x
	lines plot.turns_slow turns_slow_flush "Turns, flush + 1 ms, ten sessions listening" "clients" "turns/s" x
	lines plot.lapsed sweep_lapsed "Sweep" "lapsed turns" "seconds" xy
	lines plot.growth_sizes growth_sizes "Retention under way" "seconds" "GB"
	lines plot.growth_turns growth_turns "Retention under way" "seconds" "a second"
	lines plot.start start "Start of a worker" "owed turns" "seconds; 100 MB" xy
	lines plot.pinned_turns pinned_turns "Under an idle transaction" "seconds of load" "turns/s"
	lines plot.pinned_sizes pinned_sizes "Under an idle transaction" "lives" "MB"
	if [ -s "$B/plot.live" ]; then
		sed -i 's/	0	/	1	/' "$B/plot.live" # zero on a logarithmic axis
		lines plot.live sweep_live "Sweep of 2,000 lapsed turns" "live turns beside them" "seconds" x
	fi
	[ -s "$B/plot.latency" ] || return 0
	cp "$B/plot.latency" "$TL_OUT/latency.tsv"
	sort -g "$B/plot.latency" | awk '{ v[NR] = $1 } END { for (i = 1; i <= NR; i++) print v[i] "\t" i / NR }' >"$B/plot.latency.cdf"
	gnuplot <<-X
		set terminal svg size 640,400 background '#ffffff' font 'sans-serif,13'
		set output '$TL_OUT/latency.svg'
		set title "From a worker's death to the wake-up of a listener"
		set xlabel 'ms'
		set ylabel 'share of deaths'
		set xrange [0:]
		set yrange [0:1]
		set grid
		unset key
		plot '$B/plot.latency.cdf' using 1:2 with steps linewidth 2
	X
}
