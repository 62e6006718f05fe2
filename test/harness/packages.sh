#!/usr/bin/env bash
#
# packages.sh PURPOSE...
#
# See to it that the packages listed for each purpose are there. Installs
# through apt as root or with a sudo that asks nothing; otherwise names the
# packages and fails. Costs one dpkg-query when nothing is missing.

set -eu
here=$(cd "$(dirname "$0")" && pwd)

# Not a Debian: the user has brought the tools; the step that needs a missing
# one names it.
command -v dpkg-query >/dev/null || exit 0

wanted=()
for purpose; do
	while read -r package command; do
		case $package in '' | '#'*) continue ;; esac
		# Another server was chosen: its packages are its owner's business.
		case ${TL_PG_CONFIG:+other}$package in otherpostgresql-*) continue ;; esac
		if [ -n "$command" ] && command -v "$command" >/dev/null; then
			continue
		fi
		wanted+=("$package")
	done <"$here/packages/$purpose"
done
[ ${#wanted[@]} -gt 0 ] || exit 0

# dpkg-query also exits non-zero for a package it has never heard of.
there=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${wanted[@]}" 2>/dev/null |
	sed -n 's/^.i  *//p') || true
missing=()
for package in "${wanted[@]}"; do
	grep -qxF -- "$package" <<<"$there" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
	root=(false)
elif [ "$(id -u)" = 0 ]; then
	root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	root=(sudo -n)
else
	root=(false)
fi
if [ "${root[*]-}" = false ]; then
	{
		echo "These packages are missing, and this user may not install them:"
		echo "    ${missing[*]}"
		echo "Ask an administrator to run:"
		echo "    apt-get install --no-install-recommends ${missing[*]}"
	} >&2
	exit 1
fi
echo "Installing ${missing[*]}"
exec ${root[@]+"${root[@]}"} bash "$here/apt-install.sh" "${missing[@]}"
