#!/usr/bin/env bash
#
# publish.sh
#
# Put the results of the last "make bench" into the READMEs, where there are lines
# like <!-- bench --> and <!-- /bench -->: the whole table into
# test/bench/README.md, the six rows that the top README shows into that; growth,
# start and pinned into a table of their own; and the plots into
# test/bench/plots/.  Only whole tables are published:
#
#     make bench ARGS="long table" && test/bench/publish.sh
#     make bench ARGS="long growth start pinned" && test/bench/publish.sh

set -eu
cd "$(dirname "$0")/../.."
results=test/bench/results
published=

put() { # put TEXT NAME FILE
	perl -0 -pi -e '
		BEGIN { open my $f, "<", shift or die; $text = <$f>; $name = shift }
		s/^<!-- $name -->\n\K.*?(?=^<!-- \/$name -->$)/\n$text\n/ms or die "publish.sh: $ARGV lacks the lines to write between\n";
	' "$1" "$2" "$3"
}
plots() {
	local plot
	mkdir -p test/bench/plots
	for plot; do cp "$results/$plot.svg" test/bench/plots/; done
}
# the first line of environment.txt names the run
of_last_run() { grep -qsxF "$(head -n 1 $results/environment.txt)." "$results/$1"; }

if of_last_run README-table.md; then
	put $results/README-table.md bench test/bench/README.md
	put $results/README-rows.md bench README.md
	plots turns beats
	published=yes
fi
if of_last_run README-growth.md; then
	put $results/README-growth.md growth test/bench/README.md
	plots growth_sizes growth_turns start pinned_turns pinned_sizes
	published=yes
fi
if [ -z "$published" ]; then
	echo "publish.sh: the last run measured some rows only: see test/bench/README.md" >&2
	exit 1
fi
