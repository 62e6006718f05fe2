#!/usr/bin/env bash
#
# apt-install.sh PACKAGE...   (as root)
#
# Install packages without creating or starting any server. Debian's server
# packages make a cluster "main" and start their services when they are
# installed; we want the programs only, and the machine otherwise as it was.

set -eu

cluster_dir=/etc/postgresql-common/createcluster.d
cluster_conf=$cluster_dir/turn_liveness-no-main-cluster.conf
policy=/usr/sbin/policy-rc.d
saved=$policy.turn_liveness-saved
made_dir=

restore() {
	rm -f "$cluster_conf"
	# Ours only if empty and not since become the package's.
	if [ -n "$made_dir" ] && ! dpkg-query -S "$cluster_dir" >/dev/null 2>&1; then
		rmdir -p --ignore-fail-on-non-empty "$cluster_dir" 2>/dev/null || true
	fi
	if grep -qs 'turn_liveness' "$policy"; then
		rm -f "$policy"
	fi
	if [ -e "$saved" ]; then
		mv "$saved" "$policy"
	fi
}

# One at a time: two of us would restore each other's files.
exec 9>/run/lock/turn_liveness-apt.lock
flock 9
restore # what an earlier run left that was killed
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

[ -d "$cluster_dir" ] || made_dir=yes
mkdir -p "$cluster_dir"
echo "create_main_cluster = false" >"$cluster_conf"

# policy-rc.d is Debian's switch for "start no service". One that already
# forbids it (containers have it) stays.
answer=0
if [ -x "$policy" ]; then
	"$policy" postgresql start >/dev/null 2>&1 || answer=$?
fi
if [ "$answer" != 101 ]; then
	if [ -e "$policy" ]; then
		mv "$policy" "$saved"
	fi
	printf '#!/bin/sh\n# turn_liveness: for the time of an apt-get install; safe to remove\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
install() {
	apt-get -qq -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 \
		install --no-install-recommends "$@" </dev/null
}

# The package lists may be absent or old; ask for new ones only then. What the
# first try complains of is shown by the second, if it is still so.
if ! install "$@" 2>/dev/null; then
	apt-get -qq -o DPkg::Lock::Timeout=600 update
	install "$@"
fi

# Nor may they start at the next boot.
if command -v systemctl >/dev/null; then
	dpkg-query -L "$@" | sed -n 's|.*/lib/systemd/system/\([^@]*\.service\)$|\1|p' |
		grep -v '^postgresql' | while read -r unit; do
			systemctl --quiet disable "$unit" || true
		done
fi
