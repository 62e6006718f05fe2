#!/usr/bin/env bash
#
# demo.sh
#
# The demo, on a running throw-away server with the extension preloaded, which
# PGHOST, PGPORT and PGUSER (a superuser) name. It works in a database of its own.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
database=turn_liveness_demo

make -s -C "$here" ${TL_PG_CONFIG:+PG_CONFIG="$TL_PG_CONFIG"}

export PGDATABASE=${PGDATABASE:-postgres}
sql() {
	psql -X -q -v ON_ERROR_STOP=1 "$@"
}
drop() {
	PGDATABASE=$maintenance sql -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" 2>/dev/null
}

maintenance=$PGDATABASE
drop
trap drop EXIT
# A worker whose session ends is dead at once: no worker here reconnects.
sql -c "CREATE DATABASE $database" \
	-c "ALTER DATABASE $database SET turn_liveness.reconnect_window = 0"
export PGDATABASE=$database
sql -c "CREATE EXTENSION turn_liveness" -f "$here/schema.sql"
"$here/demo" "$here/gateway"
