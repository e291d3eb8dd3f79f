#!/bin/sh
# Fetches the page's third-party files from npm again and puts them, with their licences, into web/static. Every package is
# pinned by version and checksum, and every file by web/static/vendor.sha256 (which a test of package web checks too).
# "vendor-page.sh check" only compares what is there with what npm gives.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
to=$root/web/static
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# take PACKAGE VERSION SHA256 FILE=NAME...
take() {
	package=$1 version=$2 sum=$3
	shift 3
	(cd "$tmp" && npm pack --silent "$package@$version" >/dev/null)
	echo "$sum  $tmp/$package-$version.tgz" | sha256sum -c --quiet - || { echo "$package $version is not what it was" >&2; exit 1; }
	mkdir -p "$tmp/$package" "$tmp/out"
	tar -xzf "$tmp/$package-$version.tgz" -C "$tmp/$package"
	for pair; do cp "$tmp/$package/package/${pair%%=*}" "$tmp/out/${pair#*=}"; done
}

take htm 3.1.1 2425b9bee11409177bcabc7f32e319926fc6690c1701c0b257c88bdff2d5ba90 preact/standalone.module.js=htm-preact.js LICENSE=htm-preact.LICENSE
take uplot 1.6.32 4b8a8191e425658e3ea8c8c1314b0fc679c861ee3a1af2b20c7b16ba50b5133d dist/uPlot.iife.min.js=uPlot.js dist/uPlot.min.css=uPlot.css LICENSE=uPlot.LICENSE

if [ "${1:-}" = check ]; then
	(cd "$tmp/out" && sha256sum -c --quiet "$to/vendor.sha256")
	(cd "$to" && sha256sum -c --quiet vendor.sha256)
	echo "the page carries what npm gives"
	exit
fi
mkdir -p "$to"
chmod 644 "$tmp"/out/*
cp "$tmp"/out/* "$to/"
(cd "$to" && sha256sum htm-preact.* uPlot.* >vendor.sha256)
