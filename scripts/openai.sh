#!/bin/sh
# Fetches OpenAI's own JavaScript client (Apache-2.0) from npm into .deps/openai, checked by its sum: a test drives our server with it. It is no
# part of the program. Without npm or a network it says so and succeeds: then that one test is skipped. "openai.sh python" puts the Python client
# into .deps/openai-python too, where pip has it.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
name=openai
. "$root/scripts/lib.sh"
version=6.30.1
sum=175f3e017a9bc14d36dc0f57d2596ee1c7134d7fa181b7d83b2716f69076b03e
if [ "${1:-}" = python ]; then
	python3 -m venv "$deps/openai-python"
	"$deps/openai-python/bin/pip" install --quiet 'openai>=2,<4'
	exit
fi
[ "$(cat "$deps/openai/version" 2>/dev/null || true)" = "$version" ] && exit 0
command -v npm >/dev/null || { say "npm is missing, so OpenAI's client is not tried"; exit 0; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if ! (cd "$tmp" && timeout 60 npm pack --silent --fetch-retries=1 "openai@$version" >/dev/null 2>&1); then
	say "OpenAI's client could not be fetched, so it is not tried"
	exit 0
fi
echo "$sum  $tmp/openai-$version.tgz" | sha256sum -c --quiet - || die "openai $version is not what it was"
tar -xzf "$tmp/openai-$version.tgz" -C "$tmp"
rm -rf "$deps/openai"
mkdir -p "$deps/openai/node_modules"
mv "$tmp/package" "$deps/openai/node_modules/openai"
echo "$version" >"$deps/openai/version"
