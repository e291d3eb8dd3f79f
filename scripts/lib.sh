# Shared by the set-up scripts; sourced by them, with root set to the repository.
# shellcheck shell=sh

deps=${AFTERIMAGE_DEPS:-$root/.deps}
suite=trixie

say() { echo "$name: $*" >&2; }
die() { say "$*"; exit 1; }

# private_apt DIR TYPE [COMPONENTS] prepares an apt of its own in DIR for the suite above (TYPE is deb or deb-src, COMPONENTS are
# main unless given): own list, state and cache, so the system's package lists and installed packages stay as they are. Afterwards
# `papt` is that apt-get. The mirror is the one this machine uses for Debian already, and Debian's keyring vouches for what it gives.
private_apt() {
	papt_dir=$1
	mkdir -p "$papt_dir/lists/partial" "$papt_dir/cache/archives/partial"
	command -v apt-get >/dev/null || die "this machine has no apt-get"
	mirror=${AFTERIMAGE_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		awk '$1 == "Debian" { print $2; exit }')}
	[ -n "$mirror" ] || die "found no Debian mirror in this machine's apt sources: set AFTERIMAGE_DEBIAN_MIRROR to one"
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -f "$keyring" ] || keyring=${keyring%.gpg}.pgp # newer Debian renamed it
	[ -f "$keyring" ] || die "$keyring is missing: install the package debian-archive-keyring"
	echo "$2 [signed-by=$keyring] $mirror $suite ${3:-main}" >"$papt_dir/sources.list"
	papt update || return 1
}

papt() {
	apt-get -q -y -o Dir::Etc::sourcelist="$papt_dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o Dir::State::lists="$papt_dir/lists" -o Dir::Cache="$papt_dir/cache" \
		-o APT::Update::Error-Mode=any -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}
