# Source this file (". scripts/env.sh") before using go by hand: it points cgo at the FFmpeg that `make deps` found or built and at
# the CUDA toolkit that was found or fetched by `make cuda`, for -tags cuda, and puts a Go that `make deps` fetched first in PATH.
# It only sets variables, and does nothing that is not needed.
# shellcheck shell=sh

_root=${AFTERIMAGE_ROOT:-}
[ -n "$_root" ] || { [ -n "${BASH_SOURCE:-}" ] && _root=$(cd "$(dirname "${BASH_SOURCE:-$0}")/.." && pwd); }
[ -n "$_root" ] || _root=$(pwd)
_deps=${AFTERIMAGE_DEPS:-$_root/.deps}

# Our own static FFmpeg wins over a system one when it is there: `make deps` builds it only if the system's does not fit.
if [ -f "$_deps/ffmpeg/.complete" ]; then
	case ":${PKG_CONFIG_PATH:-}:" in
	*":$_deps/ffmpeg/lib/pkgconfig:"*) ;;
	*) export PKG_CONFIG_PATH="$_deps/ffmpeg/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}" ;;
	esac
fi

if [ -x "$_deps/go/bin/go" ]; then
	case ":$PATH:" in
	*":$_deps/go/bin:"*) ;;
	*) export PATH="$_deps/go/bin:$PATH" ;;
	esac
fi
# A Go of another version is asked to fetch the right one; a Go that already fits is left as it is.
if [ -f "$_deps/gotoolchain" ]; then
	GOTOOLCHAIN=$(cat "$_deps/gotoolchain")
	export GOTOOLCHAIN
fi
# Whoever sets cgo's flags is taken to know what for.
if [ -z "${CGO_CFLAGS:-}${CGO_LDFLAGS:-}" ] && [ -x "$_root/scripts/cuda.sh" ]; then
	eval "$("$_root/scripts/cuda.sh" find || true)"
fi
export CGO_ENABLED=1
unset _root _deps
