#!/usr/bin/env bash
#
# cluster.sh
#
# The demo over three servers and a proxy: it starts them in $TL_TMP, as
# test/harness/inside.sh sets it, and follows the README.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
. test/harness/server.sh

if [ ! -e "$("$TL_PG_CONFIG" --sharedir)/extension/plproxy.control" ]; then
	echo "turn_liveness: this server has no PL/Proxy (Debian: postgresql-15-plproxy)" >&2
	exit 1
fi
make -s -C "$here" PG_CONFIG="$TL_PG_CONFIG"

sql() {
	psql -X -q -v ON_ERROR_STOP=1 "$@"
}
in_server() { # in_server NAME COMMAND...
	TL_SERVER=$TL_TMP/$1
	export PGHOST=$TL_SERVER
	shift
	"$@"
}
stop_all() {
	for name in proxy node0 node1 node2; do
		in_server "$name" tl_server_stop immediate 2>/dev/null || true
	done
}
trap stop_all EXIT

# --- three nodes, and a server for the proxy

begin() {
	# a worker whose session ends is dead at once: no worker here reconnects
	tl_server_start "$@" "turn_liveness.reconnect_window = 0"
}
starting=()
for i in 0 1 2; do
	in_server node$i begin "turn_liveness.node = $i" &
	starting+=($!)
done
in_server proxy begin &
starting+=($!)
for pid in "${starting[@]}"; do wait "$pid"; done
export PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
for i in 0 1 2; do
	in_server node$i sql -c "CREATE DATABASE app" && in_server node$i sql -d app -c "CREATE EXTENSION turn_liveness"
done

in_server proxy sql -c "CREATE DATABASE proxy"
export PGDATABASE=proxy
sql -1 -f sql/install/turn_liveness_proxy.sql -o /dev/null
sql -f "$here/schema.sql" -c "CREATE SERVER turn_liveness FOREIGN DATA WRAPPER plproxy OPTIONS (
	modular_mapping '1', query_timeout '2', p0 'host=$TL_TMP/node0 dbname=app',
	p1 'host=$TL_TMP/node1 dbname=app', p2 'host=$TL_TMP/node2 dbname=app')" \
	-c "CREATE USER MAPPING FOR PUBLIC SERVER turn_liveness"

# --- the demo; what a node that is down leaves out is no news there

cat >"$TL_TMP/node" <<END
#!/usr/bin/env bash
cd "$PWD"
TL_TMP=$TL_TMP
. test/harness/server.sh
TL_SERVER=\$TL_TMP/node\$2
case \$1 in
stop) tl_server_stop immediate ;;
start) tl_server_ctl start ;;
esac
END
chmod 755 "$TL_TMP/node"
PGOPTIONS="-c client_min_messages=error" "$here/cluster" "$here/gateway" "$TL_TMP/node"
