#!/bin/sh
# Sets up what a target needs: Debian packages, Go, FFmpeg. Says what it does; when nothing is to be done it is silent and takes
# milliseconds. Usage: deps.sh [extra package]...
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
name=deps
. "$root/scripts/lib.sh"

packages="build-essential nasm pkg-config libopenh264-dev libgnutls28-dev zlib1g-dev xz-utils git ca-certificates debian-archive-keyring $*"

missing() {
	# A Debian 12 as first released does not know the keys of the next one; its updated keyring does.
	[ ! -f /usr/share/keyrings/debian-archive-keyring.gpg ] || [ -n "$(ls /usr/share/keyrings/debian-archive-$suite-* 2>/dev/null)" ] ||
		printf 'debian-archive-keyring '
	for p in $packages; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || printf '%s ' "$p"
	done
}

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
	todo=$(missing || true)
	if [ -n "$todo" ]; then
		as=
		if [ "$(id -u)" != 0 ]; then
			command -v sudo >/dev/null || die "these packages are missing, and there is no sudo to install them with: $todo"
			as=sudo
		fi
		say "installing with apt: $todo"
		mkdir -p "$deps"
		log=$deps/apt.log
		# shellcheck disable=SC2086
		if ! { $as apt-get -q update && $as env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $todo; } >"$log" 2>&1 </dev/null; then
			tail -n 15 "$log" >&2
			die "apt failed; all it said is in ${log#"$root"/}"
		fi
	fi
else
	# Another system: its own package manager has to bring these.
	for c in cc c++ make nasm pkg-config git; do
		command -v $c >/dev/null || die "$c is missing: install it, and the development files of FFmpeg 7 (with OpenH264)"
	done
fi

# Two makes at once must not build the same thing in the same place.
if command -v flock >/dev/null; then
	mkdir -p "$deps"
	exec 9>"$deps/.lock"
	flock 9
fi
"$root/scripts/go.sh"
"$root/scripts/ffmpeg.sh"
