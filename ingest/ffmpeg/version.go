package ffmpeg

/*
#cgo pkg-config: libavutil
#include <libavutil/avutil.h>
*/
import "C"

// Version is that of the FFmpeg linked in, as it calls itself, for example "7.1.5".
func Version() string { return C.GoString(C.av_version_info()) }
