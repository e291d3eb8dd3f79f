#!/bin/sh
# Makes sure that a Go that fits is there: the one in PATH, or one put under .deps. An older Go (1.21 on) fetches the right one
# itself, as a module, checked against Go's checksum database; where there is none at all, Debian's is unpacked, not installed,
# to do that. Called by `make deps`; safe to call again, and then instant.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
name=go
. "$root/scripts/lib.sh"
wanted=1.26.8

# minor GO prints N of the go1.N that GO is, or 0.
minor() {
	v=$(GOTOOLCHAIN=local "$1" version 2>/dev/null | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p')
	echo "${v:-0}"
}

[ -x "$deps/go/bin/go" ] && [ "$(minor "$deps/go/bin/go")" -ge 26 ] && exit 0
if command -v go >/dev/null && [ "$(minor go)" -ge 26 ]; then exit 0; fi

mkdir -p "$deps"
found=
for g in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go /usr/lib/go-1.*/bin/go; do
	[ -n "$g" ] && [ -x "$g" ] || continue
	m=$(minor "$g")
	if [ "$m" -ge 26 ]; then
		say "using $g"
		ln -sfn "$(dirname "$(dirname "$g")")" "$deps/go"
		exit 0
	fi
	[ "$m" -ge 21 ] && found=$g
done

help="install Go 1.26 or newer from go.dev/dl and put it in PATH, then run this again"
work=$deps/go-build
rm -rf "$work"
if [ -z "$found" ]; then
	say "no Go on this machine: unpacking Debian's, to fetch go$wanted with (90 MB, about a minute)"
	mkdir -p "$work"
	log=$work/log
	private_apt "$work/apt" deb >"$log" 2>&1 || { tail -n 5 "$log" >&2; die "apt could not read the signed package list of $suite: $help"; }
	pkg=$(apt-cache -o Dir::Etc::sourcelist="$papt_dir/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$papt_dir/lists" -o Dir::Cache="$papt_dir/cache" \
		depends golang-go 2>/dev/null | sed -n 's/.*Depends: \(golang-1\.[0-9]*-go\)$/\1/p' | head -n 1)
	[ -n "$pkg" ] || die "$suite has no Go: $help"
	(cd "$work" && papt download "$pkg" "${pkg%-go}-src") >>"$log" 2>&1 || { tail -n 5 "$log" >&2; die "apt could not fetch Go: $help"; }
	for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
	found=$(echo "$work"/root/usr/lib/go-1.*/bin/go)
	# Debian keeps the sources in another folder, by links that are only right in /.
	for d in src test api misc; do
		if [ -d "$work"/root/usr/share/go-1.*/$d ]; then ln -sfn "$(echo "$work"/root/usr/share/go-1.*/$d)" "$(dirname "$(dirname "$found")")/$d"; fi
	done
	GOROOT=$(dirname "$(dirname "$found")")
	export GOROOT
fi
say "fetching go$wanted with $(GOTOOLCHAIN=local "$found" version | cut -d' ' -f3) (about 70 MB)"
cd "$deps"
goroot=$(GOTOOLCHAIN=go$wanted GOFLAGS= GOWORK=off "$found" env GOROOT) || die "could not fetch go$wanted: $help"
unset GOROOT
if [ "$(minor "$goroot/bin/go")" -lt 26 ]; then die "could not fetch go$wanted: $help"; fi
ln -sfn "$goroot" "$deps/go"
rm -rf "$work"
say "done: go$wanted in .deps/go"
