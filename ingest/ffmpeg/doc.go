// Package ffmpeg decodes cameras and files through FFmpeg. There are only a few types: a Decoder is an ingest.Source over one
// URL, an H264Encoder turns pictures into H.264 access units, and WriteMP4 makes a file of them.
//
// What a stream may make FFmpeg do is bounded by allow-lists of protocols, formats and codecs for each scheme, by a cap on
// picture size and by a time-out on everything that reads. FFmpeg's own log is off, since its lines repeat URLs with their
// passwords; errors say what went wrong and name the source as ingest.URL prints it.
package ffmpeg
