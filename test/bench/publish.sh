#!/usr/bin/env bash
#
# publish.sh
#
# Put the results of the last "make bench" between the lines <!-- bench --> and
# <!-- /bench -->: the whole table into test/bench/README.md, the six rows that
# the top README shows into that; and the plots into test/bench/plots/.  Only a
# run of all rows is published:
#
#     make bench ARGS=long && test/bench/publish.sh

set -eu
cd "$(dirname "$0")/../.."
results=test/bench/results

# the first line of environment.txt names the run
if ! grep -qsxF "$(head -n 1 $results/environment.txt)." $results/README-table.md; then
	echo "publish.sh: the last run measured some rows only: make bench ARGS=long" >&2
	exit 1
fi

put() { # put TEXT FILE
	perl -0 -pi -e '
		BEGIN { open my $f, "<", shift or die; $text = <$f> }
		s/^<!-- bench -->\n\K.*?(?=^<!-- \/bench -->$)/\n$text\n/ms or die "publish.sh: $ARGV lacks the lines to write between\n";
	' "$1" "$2"
}
put $results/README-table.md test/bench/README.md
put $results/README-rows.md README.md
mkdir -p test/bench/plots
for plot in turns beats growth_sizes growth_turns start pinned_turns pinned_sizes; do
	cp $results/$plot.svg test/bench/plots/
done
