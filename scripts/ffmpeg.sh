#!/bin/sh
# Makes sure that an FFmpeg 7 which fits is there: the system's, or a static one built once under .deps/ffmpeg from Debian's
# source package. Nothing outside .deps is changed. Called by `make deps`; safe to call again, and then instant.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
name=ffmpeg
. "$root/scripts/lib.sh"
out=$deps/ffmpeg
# The version this repository was tested with. A newer 7.1 of the same suite is accepted (Debian removes the old one when it
# publishes a security fix), and its archive signature is what vouches for it.
known=7.1.5
known_sha256=de668509caf9e35e3cd162473441fdb29538c6d96ed080292b3cf9e6fc5d558f

# What we build. Everything else stays out: less to build, and less that a hostile stream can reach.
options='
--disable-everything --disable-autodetect --disable-programs --disable-doc --disable-debug
--enable-static --disable-shared --enable-pic
--enable-gnutls --enable-libopenh264 --enable-zlib
--enable-protocol=file,tcp,udp,rtp,http,https,tls,crypto
--enable-demuxer=rtsp,sdp,rtp,hls,mov,matroska,mpegts,mpegps,avi,flv,mjpeg,mpjpeg,h264,hevc,m4v,ivf
--enable-muxer=mp4,mov,matroska,mpegts,mjpeg,mpjpeg
--enable-decoder=h264,hevc,mjpeg,mpeg4,mpeg1video,mpeg2video,vp8,vp9,rawvideo
--enable-encoder=libopenh264,mpeg4,mjpeg,rawvideo
--enable-parser=h264,hevc,mjpeg,mpeg4video,mpegvideo,vp8,vp9,aac,aac_latm,mpegaudio,ac3,opus
--enable-bsf=h264_mp4toannexb,hevc_mp4toannexb,extract_extradata,vp9_superframe,vp9_superframe_split,mpeg4_unpack_bframes,aac_adtstoasc,null
--enable-indev=v4l2
--enable-filter=null,buffer,buffersink,scale,format,transpose
'

# A system FFmpeg fits when it is a 7.x with headers and can encode H.264 with OpenH264 (the simulated camera needs that).
system_fits() {
	[ "${AFTERIMAGE_FFMPEG:-auto}" != build ] || return 1
	pkg-config --atleast-version=61 libavcodec 2>/dev/null || return 1
	pkg-config --max-version=61.999 libavcodec || return 1
	for lib in libavdevice libavfilter libavformat libavutil libswresample libswscale; do
		pkg-config --exists $lib || return 1
	done
	probe=$(mktemp -d)
	cat >"$probe/p.c" <<'C'
#include <libavcodec/avcodec.h>
int main(void) { return avcodec_find_encoder_by_name("libopenh264") == NULL; }
C
	# shellcheck disable=SC2046
	if cc -o "$probe/p" "$probe/p.c" $(pkg-config --cflags --libs libavcodec) 2>/dev/null && "$probe/p"; then rc=0; else rc=1; fi
	rm -rf "$probe"
	return $rc
}

want=$(printf '%s' "$known $options $(pkg-config --modversion openh264 gnutls 2>/dev/null | tr '\n' ' ')" | sha256sum | cut -c1-16)
[ "$(cat "$out/.complete" 2>/dev/null || true)" = "$want" ] && exit 0
if [ ! -e "$out" ] && system_fits; then exit 0; fi

work=$deps/ffmpeg-build
rm -rf "$out" "$work"
mkdir -p "$work"
log=$work/log
fail() { say "$1; the last lines of the log:"; tail -n 25 "$log" >&2; exit 1; }

cores=$(nproc)
say "no FFmpeg 7 that fits on this system: building $known static, once (about $((cores > 4 ? 1 : 5 / cores + 1)) minutes on $cores cores)"

say "fetching the source package (11 MB)"
private_apt "$work/apt" deb-src >"$log" 2>&1 || fail "apt could not read the signed source list of $suite"
(cd "$work" && papt source ffmpeg) >>"$log" 2>&1 || fail "apt could not fetch or unpack the source package"
src=$(find "$work" -maxdepth 1 -type d -name 'ffmpeg-7.*' | head -n 1)
[ -n "$src" ] || fail "the source package of $suite is no FFmpeg 7"
version=${src##*/ffmpeg-}
if [ "$version" = "$known" ]; then
	echo "$known_sha256  $work/ffmpeg_$version.orig.tar.xz" | sha256sum -c --quiet >>"$log" 2>&1 || fail "the source of $version is not the one this repository was tested with"
else
	say "the archive has $version now (tested: $known)"
fi

# OpenH264 goes in statically, so that the program runs on a machine without it. GnuTLS stays shared: it is on every Debian and
# Ubuntu (apt needs it), and its security fixes then arrive without a rebuild.
rm -rf "$out.new"
mkdir -p "$work/pkgconfig" "$out.new/lib"
libdir=$(pkg-config --variable=libdir openh264)
if [ -f "$libdir/libopenh264.a" ]; then
	# A folder that holds only the archive is what makes -lopenh264 static.
	cp "$libdir/libopenh264.a" "$out.new/lib/"
	sed "s|^Libs:.*|Libs: -L$out.new/lib -lopenh264 -lstdc++ -lm -lpthread|; s|^Libs.private:.*||" "$libdir/pkgconfig/openh264.pc" >"$work/pkgconfig/openh264.pc"
fi

say "configuring"
cd "$src"
# shellcheck disable=SC2086
PKG_CONFIG_PATH="$work/pkgconfig" ./configure --prefix="$out.new" $options >>"$log" 2>&1 || { tail -n 5 ffbuild/config.log >>"$log"; fail "configure failed"; }

say "compiling"
total=$(make -n 2>/dev/null | grep -c '^printf "\(CC\|X86ASM\)' || true)
make -j"$cores" >>"$log" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null || true' INT TERM
n=0
while kill -0 $pid 2>/dev/null; do
	sleep 1
	n=$((n + 1))
	if [ $((n % 15)) = 0 ] && [ "${total:-0}" -gt 0 ]; then
		say "  $(grep -c '^\(CC\|X86ASM\)' "$log" || true) of $total files"
	fi
done
wait $pid || fail "make failed"
make install >>"$log" 2>&1 || fail "make install failed"

# The folder may be moved (with the repository, or copied to another machine): paths are relative to the .pc files.
sed -i -e 's|^prefix=.*|prefix=${pcfiledir}/../..|' -e "s|$out.new|\${prefix}|g" "$out.new"/lib/pkgconfig/*.pc
echo "$version" >"$out.new/version"
echo "$want" >"$out.new/.complete"
mv "$out.new" "$out"
cd "$root"
rm -rf "$work"
say "done: FFmpeg $version in ${out#"$root"/}"
