#!/bin/sh
# Finds a CUDA toolkit of 12.4 to 13.x for building (no GPU is needed for that), or fetches one under .deps/cuda: the compiler and
# the headers of 12.4 out of Debian's packages, nothing installed and nothing outside .deps changed.
#
#   cuda.sh find    prints what a shell has to export for `-tags cuda`; fails quietly where there is no toolkit
#   cuda.sh get     fetches one where none is found, or with AFTERIMAGE_CUDA=build in any case; instant when that was done before
#
# AFTERIMAGE_CUDA=off finds none. CUDA_HOME names a toolkit that is in neither PATH nor /usr/local/cuda.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
name=cuda
. "$root/scripts/lib.sh"
out=$deps/cuda

# toolkit NVCC sets home, include and stubs of the toolkit that NVCC belongs to, or fails where it does not fit.
toolkit() {
	nvcc=$1
	[ -x "$nvcc" ] || return 1
	home=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
	include=
	for d in "$home/include" "$home"/targets/*-linux/include /usr/include; do
		if [ -f "$d/cuda.h" ] && [ -f "$d/cuda_bf16.h" ]; then include=$d && break; fi
	done
	[ -n "$include" ] || return 1
	version=$(sed -n 's/^#define CUDA_VERSION *\([0-9]*\).*/\1/p' "$include/cuda.h")
	[ "${version:-0}" -ge 12040 ] && [ "$version" -lt 14000 ] || return 1
	# Linking needs libcuda. A machine without a driver has the toolkit's stand-in for it; one with a driver may have only that.
	stubs=
	for d in "$home/lib64/stubs" "$home/lib/stubs" "$home"/targets/*-linux/lib/stubs /usr/lib/*-linux-gnu/stubs "$out/lib/stubs" /usr/lib/*-linux-gnu /usr/lib64; do
		if [ -e "$d/libcuda.so" ]; then stubs=$d && break; fi
	done
	[ -n "$stubs" ]
}

find_toolkit() {
	[ "${AFTERIMAGE_CUDA:-auto}" != off ] || return 1
	if [ -f "$out/.complete" ]; then toolkit "$out/bin/nvcc" && return 0; fi
	[ "${AFTERIMAGE_CUDA:-auto}" != build ] || return 1
	for n in ${CUDA_HOME:+"$CUDA_HOME/bin/nvcc"} "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc; do
		if toolkit "$n"; then return 0; fi
	done
	return 1
}

quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

case ${1:-} in
find)
	find_toolkit || exit 1
	# The folder with our cuda.h comes first: see there. Go's own flags are repeated because the variable replaces them.
	echo "export NVCC=$(quote "$nvcc") CGO_CFLAGS=$(quote "-O2 -g -I$root/internal/compute/cuda/compat -I$include") CGO_LDFLAGS=$(quote "-O2 -g -L$stubs")"
	exit 0
	;;
get) ;;
*) die "usage: cuda.sh find|get" ;;
esac

if find_toolkit; then exit 0; fi
command -v dpkg-deb >/dev/null || die "no CUDA toolkit of 12.4 to 13.x on this machine, and no dpkg-deb to unpack Debian's with: install NVIDIA's, or set CUDA_HOME"

work=$deps/cuda-build
rm -rf "$out" "$out.new" "$work"
mkdir -p "$work/root" "$out.new/bin" "$out.new/lib/stubs"
log=$work/log
fail() { say "$1; the last lines of the log:"; tail -n 15 "$log" >&2; rm -rf "$work/root" "$work"/*.deb "$out.new"; exit 1; }

say "no CUDA toolkit on this machine: fetching Debian's compiler and headers, once (1 GB to fetch, 170 MB to keep, under a minute on a fast line)"
private_apt "$work/apt" deb "main contrib non-free" >"$log" 2>&1 || fail "apt could not read the signed package lists of $suite"
(cd "$work" && papt download nvidia-cuda-toolkit nvidia-cuda-dev libcu++-dev) >>"$log" 2>&1 || fail "apt could not fetch the packages"

# take PACKAGE PATTERN... unpacks only what matches: the packages hold gigabytes of libraries and debuggers that nothing here needs.
take() {
	deb=$(find "$work" -maxdepth 1 -name "$1_*.deb" | head -n 1)
	shift
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --no-same-owner --wildcards "$@" >>"$log" 2>&1 || fail "could not unpack $deb"
	rm -f "$deb"
}
say "unpacking"
take nvidia-cuda-toolkit './usr/bin/*' './usr/lib/nvidia-cuda-toolkit/bin/*' './usr/lib/nvidia-cuda-toolkit/libdevice/*'
take nvidia-cuda-dev './usr/include/*' './usr/lib/*/stubs/libcuda.so'
take libcu++-dev './usr/include/*'

tools=$work/root/usr
for t in ptxas fatbinary cudafe++ nvlink bin2c cuobjdump; do mv "$tools/bin/$t" "$out.new/bin/" || fail "$t is not in the packages"; done
mv "$tools"/lib/nvidia-cuda-toolkit/bin/* "$out.new/bin/"
mv "$tools/lib/nvidia-cuda-toolkit/libdevice" "$tools/include" "$out.new/"
mv "$tools"/lib/*/stubs/libcuda.so "$out.new/lib/stubs/"
# Debian's own choice among the host's compilers knows those of its release; where none of them is there, nvcc takes the default.
"$out.new/bin/g++" --version >/dev/null 2>&1 || rm -f "$out.new/bin/gcc" "$out.new/bin/g++"
# Debian's says where things are on an installed system; this one, where they are beside it, so that the folder may be moved.
rm -f "$out.new/bin/nvcc.profile"
cat >"$out.new/bin/nvcc.profile" <<'P'
NVVMIR_LIBRARY_DIR = $(_HERE_)/../libdevice
PATH += $(_HERE_):
INCLUDES += "-I$(_HERE_)/../include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(_HERE_)/../lib/stubs"
P
printf '#include <cuda_bf16.h>\nextern "C" __global__ void k(float *x) { *x = __bfloat162float(__float2bfloat16(*x)); }\n' >"$work/probe.cu"
"$out.new/bin/nvcc" -allow-unsupported-compiler -gencode=arch=compute_90a,code=sm_90a -fatbin -o "$work/probe.fatbin" "$work/probe.cu" >>"$log" 2>&1 ||
	fail "the compiler does not work with this machine's $(g++ -dumpversion 2>/dev/null): install g++-13 or older beside it"
sed -n 's/^#define CUDA_VERSION *\([0-9]*\).*/\1/p' "$out.new/include/cuda.h" >"$out.new/.complete"
mv "$out.new" "$out"
rm -rf "$work"
say "done: CUDA $(awk '{ printf "%d.%d", $1 / 1000, $1 % 1000 / 10 }' "$out/.complete") in ${out#"$root"/} ($(du -sm "$out" | cut -f1) MB)"
