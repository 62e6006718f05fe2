# Sourced by the scripts that run inside the harness: one throw-away server.
#
#   tl_server_start [LINE...]  initdb, write postgresql.conf (the lines are
#                              added to it), start, export PGHOST, PGPORT,
#                              PGUSER and PGDATABASE
#   tl_server_restart [LINE...] add lines to postgresql.conf and restart
#   tl_server_stop             stop it; "tl_server_stop immediate" to crash it
#
# TL_POSTGRES is another postgres to start, for a tool that looks at it.
# The server listens on a socket in the temporary directory and nowhere else.
# Its files are in $TL_SERVER; the log is $TL_SERVER/log.

export TL_SERVER=$TL_TMP/server

tl_server_start() {
	rm -rf "$TL_SERVER"
	mkdir -p "$TL_SERVER"
	initdb -D "$TL_SERVER/data" -U postgres -A trust -E UTF8 --locale=C \
		--no-sync >"$TL_SERVER/initdb.log" 2>&1 || {
		cat "$TL_SERVER/initdb.log" >&2
		return 1
	}
	{
		cat "$TL_CONF"
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$TL_SERVER'"
		echo "log_line_prefix = '%m [%p] %b %q%a '"
		printf '%s\n' "$@"
	} >>"$TL_SERVER/data/postgresql.conf"
	export PGHOST=$TL_SERVER PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
	tl_server_ctl start
}

tl_server_restart() {
	printf '%s\n' "$@" >>"$TL_SERVER/data/postgresql.conf"
	tl_server_ctl restart -m fast
}

tl_server_stop() {
	[ ! -e "$TL_SERVER/data/postmaster.pid" ] || tl_server_ctl stop -m "${1:-fast}"
}

tl_server_ctl() {
	pg_ctl "$@" ${TL_POSTGRES:+-p "$TL_POSTGRES"} -s -w -D "$TL_SERVER/data" -l "$TL_SERVER/log" || {
		tail -n 40 "$TL_SERVER/log" >&2
		return 1
	}
}
