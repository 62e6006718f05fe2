#!/usr/bin/env bash
#
# inside.sh test|demo|bench|failover
#
# The part of "run" that works as an ordinary user, in the copied tree.

set -eu
. test/harness/server.sh
trap 'tl_server_stop immediate' EXIT
trap 'exit 143' INT TERM

# The demo and the benchmark write durably, as a real server does.
case $1 in
test)
	. test/harness/suites.sh
	;;
demo)
	make -s -C test/gateway PG_CONFIG="$TL_PG_CONFIG"
	tl_server_start
	# shellcheck disable=SC2086
	bash test/gateway/demo.sh ${ARGS-}
	;;
bench)
	tl_server_start
	# shellcheck disable=SC2086
	bash test/bench/run.sh ${ARGS-}
	;;
failover)
	# shellcheck disable=SC2086
	bash test/failover/run ${ARGS-}
	;;
esac
