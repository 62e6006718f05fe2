# Sourced by inside.sh: run the test suites, whatever becomes of each, and count
# their tests. The TAP suite takes as long as all others: it runs beside them, and
# is shown when they are done, so that the output is that of one after the other.
#
# SUITE="tap regress" chooses suites, TESTS="test/tap/010_x.pl sql/create.sql"
# chooses files and thereby the suites they belong to.

suites=()
beside=
makepg=(make -s PG_CONFIG="$TL_PG_CONFIG" with_llvm=no)

# Neither durable nor in the way of DROP DATABASE: the SQL functions are called
# directly here, the worker is tested in servers of its own (test/tap).
quiet_server=("fsync = off" "turn_liveness.enabled = off")

# --- which tests

SUITE=${SUITE-}
files() { # files GLOB...: those of TESTS, or all of them
	local pattern file
	for pattern; do
		if [ -z "${TESTS-}" ]; then
			compgen -G "$pattern" || true
		else
			for file in $TESTS; do
				# shellcheck disable=SC2053
				if [[ $file = $pattern ]]; then echo "$file"; fi
			done
		fi
	done | sort -u
}
names() { # names GLOB: the same without directory and suffix
	local file
	for file in $(files "$1"); do
		file=${file##*/}
		echo "${file%.*}"
	done
}
wanted() { # wanted SUITE GLOB
	if [ -n "${TESTS-}" ]; then
		[ -n "$(files "$2")" ]
	else
		[ -z "$SUITE" ] || [[ " $SUITE " = *" $1 "* ]]
	fi
}

# --- running and counting

# Numbers of tests that passed and failed, from what the tools print: prove
# and pg_prove's last lines; "N passed, N failed"; pg_regress ("test x ... ok"
# until 15, TAP since).
count() { # count LOG
	perl -ne '
		BEGIN { $bad = $died = 0 }
		$ran = $1 if /^Files=\d+, Tests=(\d+)/;
		# one line for each script of which prove did not approve; one that
		# died, or broke its plan, counts as a failure of its own
		if (/ \(Wstat: (\d+).* Tests: \d+ Failed: (\d+)\)/) {
			$bad += $2;
			$counted = $2 > 0 || $1 != 0;
			$died++ if $1 != 0 && $2 == 0;
		}
		$died++ if /^  Parse errors:/ && !$counted;
		($p, $f) = ($1, $2) if /^(?:\w+: )?(\d+) passed, (\d+) failed/;
		$ok++ if /^(?:test|   ) +\S+ +\.\.\. ok\b/ || /^ok \d/;
		$nok++ if /^(?:test|   ) +\S+ +\.\.\. (?:FAILED|failed)/ || (/^not ok \d/ && !/# TODO/);
		END {
			if (defined $ran) { ($p, $f) = ($ran - $bad, $bad + $died) }
			elsif (!defined $p) { ($p, $f) = ($ok // 0, $nok // 0) }
			print "$p $f\n";
		}' "$1"
}

suite() { # suite NAME COMMAND...
	suites+=("$1")
	run_suite "$@"
}

# The one that runs beside the others has servers of its own; $TL_SERVER is theirs.
suite_beside() { # suite_beside NAME COMMAND...
	suites+=("$1")
	run_suite "$@" >"$TL_TMP/$1.out" 2>&1 &
	beside=$!
}
show_beside() { # show_beside NAME: from its beginning, then as it goes on
	tail -n +1 -f --pid="$beside" "$TL_TMP/$1.out"
	wait "$beside" || true
}

# Leaves the numbers of its tests in $TL_TMP/NAME.count.
run_suite() { # run_suite NAME COMMAND...
	local name=$1 log=$TL_TMP/$1.log status=0 passed failed
	shift
	echo
	echo "=== $name"
	# No shell option changes inside: a failing step must end the suite.
	set +e
	(
		set -e
		[ "$name" = tap ] || trap 'tl_server_stop immediate' EXIT
		"$@"
	) 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}
	set -e
	read -r passed failed < <(count "$log")
	if [ "$failed" = 0 ] && { [ "$status" != 0 ] || [ "$passed" = 0 ]; }; then
		[ "$status" != 0 ] || echo "# $name ran no test: that is a failure"
		failed=1
	fi
	if [ "$failed" != 0 ]; then show_logs "$name"; fi
	echo "$passed $failed" >"$TL_TMP/$name.count"
}

show_logs() { # show_logs NAME
	local file script
	if [ "$1" = tap ]; then
		for script in $(sed -n 's|^test/tap/\([^ ]*\)\.pl .*Wstat.*|\1|p' "$TL_TMP/tap.log" | sort -u); do
			for file in tmp_check/log/"$script"*.log tmp_check/log/regress_log_"$script"; do
				show "$file" 60
			done
		done
		return
	fi
	for file in regression.diffs output_iso/regression.diffs; do
		show "$file" 300
		rm -f "$file"
	done
	show "$TL_SERVER/log" 60
}
show() {
	[ -s "$1" ] || return 0
	echo "--- the end of $1"
	tail -n "$2" "$1"
}

# --- the suites

regress() {
	tl_server_start "${quiet_server[@]}"
	local tests=()
	if [ -n "${TESTS-}" ]; then
		# The first one makes what the others use.
		tests=(REGRESS="$({ echo 00_setup; names 'sql/*.sql'; } | sort -u | tr '\n' ' ')")
	fi
	"${makepg[@]}" installcheck ISOLATION= TAP_TESTS= ${tests[@]+"${tests[@]}"}
}

isolation() {
	tl_server_start "${quiet_server[@]}"
	PGISOLATIONTIMEOUT=${PGISOLATIONTIMEOUT:-60} "${makepg[@]}" installcheck REGRESS= TAP_TESTS= \
		ISOLATION="$(names 'test/isolation/specs/*.spec' | tr '\n' ' ')"
}

pgtap() {
	tl_server_start "${quiet_server[@]}"
	createdb turn_liveness_pgtap
	export PGDATABASE=turn_liveness_pgtap
	psql -X -q -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION turn_liveness'
	if [ -e "$("$TL_PG_CONFIG" --sharedir)/extension/pgtap.control" ]; then
		psql -X -q -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION pgtap'
	else
		# Another server than Debian's: its pgTAP is plain SQL and serves as well.
		local script
		script=$(compgen -G '/usr/share/postgresql/*/extension/pgtap--?.?.?.sql' | tail -n 1) || {
			echo "pgTAP is neither in this server nor in Debian's (postgresql-15-pgtap)"
			return 1
		}
		sed '/^\\echo/d' "$script" | psql -X -q -v ON_ERROR_STOP=1 -o /dev/null
	fi
	# shellcheck disable=SC2046
	pg_prove $(files 'test/pgtap/*.sql')
}

# Four at once keep two processors busy: most of the time a test waits.
tap() {
	# what InitOnce.pm copies; a lane of the mutants comes here again and again
	rm -rf "$TL_TMP/template"
	initdb -D "$TL_TMP/template" -A trust -N >"$TL_TMP/initdb.log" 2>&1 || {
		cat "$TL_TMP/initdb.log"
		return 1
	}
	TEMP_CONFIG=$TL_CONF "${makepg[@]}" installcheck REGRESS= ISOLATION= TAP_TESTS=1 \
		PROVE_FLAGS="${PROVE_FLAGS:--j4}" \
		PROVE_TESTS="$(files 'test/tap/*.pl' | tr '\n' ' ')"
}

gateway_make() {
	make -s -C test/gateway PG_CONFIG="$TL_PG_CONFIG" "$@"
}

gateway() {
	gateway_make
	if gateway_make -n check >/dev/null 2>&1; then
		tl_server_start
		gateway_make check
	else
		echo "1 passed, 0 failed"
	fi
}

# What "make demo" shows; it fails if a client saw anything but one end.
demo() {
	gateway_make
	tl_server_start
	bash test/gateway/demo.sh
	echo "1 passed, 0 failed"
}

# What "make demo-cluster" shows.
demo_cluster() {
	bash test/gateway/cluster.sh
	echo "1 passed, 0 failed"
}

clients() {
	# Sessions are ended here whose turns must live on, however long the next one takes.
	tl_server_start "turn_liveness.reconnect_window = 1min"
	RESTART="pg_ctl restart -s -w -D $TL_SERVER/data -l $TL_SERVER/log" test/clients/run
}

model() {
	bash test/model/run small
}

# What judges "make chaos" is judged itself.
chaos() {
	PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 test/chaos/selftest.py
}

# Always the same seed: what it finds is found again.
hostile() {
	bash test/hostile/run 12 1
}

if wanted tap 'test/tap/*.pl'; then suite_beside tap tap; fi
if wanted checkver Makefile; then suite checkver perl test/harness/checkver.pl; fi
if wanted regress 'sql/*.sql'; then suite regress regress; fi
if wanted isolation 'test/isolation/specs/*.spec'; then suite isolation isolation; fi
if wanted pgtap 'test/pgtap/*.sql'; then suite pgtap pgtap; fi
if [ -e test/clients/run ] && wanted clients 'test/clients/*'; then suite clients clients; fi
if [ -e test/gateway/Makefile ] && wanted gateway 'test/gateway/*'; then suite gateway gateway; fi
if wanted model 'test/model/*'; then suite model model; fi
if wanted chaos 'test/chaos/*'; then suite chaos chaos; fi
if wanted hostile 'test/hostile/*'; then suite hostile hostile; fi
if [ -e test/gateway/demo.sh ] && wanted demo test/gateway/demo.sh; then suite demo demo; fi
# Not without its name: the tests of the TAP suite hold the same.
if [ -n "$SUITE${TESTS-}" ] && wanted demo-cluster test/gateway/cluster.sh; then suite demo-cluster demo_cluster; fi

if [ -n "$beside" ]; then show_beside tap; fi

total_passed=0
total_failed=0
echo
for name in "${suites[@]}"; do
	# one that could not leave its numbers has failed
	read -r passed failed <"$TL_TMP/$name.count" || { passed=0 failed=1; }
	printf '%-10s %5d passed, %d failed\n' "$name" "$passed" "$failed"
	total_passed=$((total_passed + passed))
	total_failed=$((total_failed + failed))
done
if [ ${#suites[@]} = 0 ]; then
	echo "no suite is called ${SUITE:-$TESTS}"
	total_failed=1
fi
echo "$total_passed passed, $total_failed failed"
[ "$total_failed" = 0 ]
