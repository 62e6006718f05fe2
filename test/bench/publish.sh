#!/usr/bin/env bash
#
# publish.sh
#
# Put the results of the last "make bench" into the README, between the lines
# <!-- bench --> and <!-- /bench -->, and the two plots that it shows into
# test/bench/plots/.  Only a run of all rows is published:
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
perl -0 -pi -e '
	BEGIN { open my $f, "<", shift or die; $table = <$f> }
	s/^<!-- bench -->\n\K.*?(?=^<!-- \/bench -->$)/\n$table\n/ms or die "publish.sh: README.md lacks the lines to write between\n";
' $results/README-table.md README.md
mkdir -p test/bench/plots
cp $results/turns.svg $results/beats.svg test/bench/plots/
