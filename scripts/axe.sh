#!/bin/sh
# Fetches axe-core (MPL-2.0), with which the tests look for what keeps people out of the page, from npm into .deps/axe-core, checked by
# its sum. It is no part of the program. Without npm or a network it says so and succeeds: then that one test is skipped.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
name=axe
. "$root/scripts/lib.sh"
version=4.14.1
sum=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
[ "$(cat "$deps/axe-core/version" 2>/dev/null || true)" = "$version" ] && exit 0
command -v npm >/dev/null || { say "npm is missing, so the page is not checked with axe-core"; exit 0; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if ! (cd "$tmp" && timeout 60 npm pack --silent --fetch-retries=1 "axe-core@$version" >/dev/null 2>&1); then
	say "axe-core could not be fetched, so the page is not checked with it"
	exit 0
fi
echo "$sum  $tmp/axe-core-$version.tgz" | sha256sum -c --quiet - || die "axe-core $version is not what it was"
tar -xzf "$tmp/axe-core-$version.tgz" -C "$tmp"
mkdir -p "$deps/axe-core"
cp "$tmp/package/axe.min.js" "$tmp/package/LICENSE" "$deps/axe-core/"
echo "$version" >"$deps/axe-core/version"
