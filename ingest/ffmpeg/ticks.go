package ffmpeg

import (
	"time"

	"github.com/asticode/go-astiav"
)

// Encoders here count in the ticks that RTP gives video.
const ticksPerSecond = 90000

func tickBase() astiav.Rational { return astiav.NewRational(1, ticksPerSecond) }

func nanoseconds() astiav.Rational { return astiav.NewRational(1, int(time.Second)) }

// duration is a timestamp in units of base.
func duration(ts int64, base astiav.Rational) time.Duration {
	return time.Duration(astiav.RescaleQ(ts, base, nanoseconds()))
}

func ticks(d time.Duration) int64 { return astiav.RescaleQ(int64(d), nanoseconds(), tickBase()) }
