package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"afterimage/ingest/ffmpeg"
	"afterimage/ingest/simcam"
)

type simcamCmd struct {
	RTSP         string        `name:"rtsp" placeholder:"ADDRESS" help:"Serve as a camera at this address, for example 127.0.0.1:8554."`
	AnyInterface bool          `help:"Allow an address that other machines can reach."`
	User         string        `help:"User that clients must give; the password is in the environment variable AFTERIMAGE_SIMCAM_PASSWORD."`
	Out          string        `placeholder:"FILE.mp4" type:"path" help:"Write a clip instead."`
	Questions    string        `placeholder:"FILE.json" type:"path" help:"With --out: write the clip's questions and answers."`
	Seed         uint64        `default:"100000" help:"Which street day to play. Seeds below 100000 are what the default model was trained on."`
	Length       time.Duration `help:"How long: 10m for a clip and for ever over RTSP when not given."`
	FPS          int           `name:"fps" default:"25" help:"Pictures a second."`
}

func (c *simcamCmd) Help() string {
	return `The same seed always plays the same street. Over RTSP the camera is found at rtsp://ADDRESS/street.

Examples:
  afterimage simcam --rtsp 127.0.0.1:8554 --seed 123456
  afterimage simcam --out street.mp4 --questions street.json --length 5m`
}

const defaultClip = 10 * time.Minute

func (c *simcamCmd) Run(ctx context.Context, a *app) error {
	switch {
	case (c.RTSP == "") == (c.Out == ""):
		return errors.New("simcam: say either --rtsp ADDRESS or --out FILE.mp4")
	case c.Questions != "" && c.Out == "":
		return errors.New("simcam: --questions goes with --out")
	case c.FPS < 1 || c.FPS > 60:
		return errors.New("simcam: --fps: want 1 to 60")
	case c.Length < 0 || c.Length > 24*time.Hour:
		return errors.New("simcam: --length: want up to 24h")
	}
	if c.RTSP != "" {
		return c.serve(ctx, a)
	}
	return c.write(ctx, a)
}

func (c *simcamCmd) serve(ctx context.Context, a *app) error {
	password, _ := a.lookup("AFTERIMAGE_SIMCAM_PASSWORD")
	if c.User != "" && password == "" {
		return errors.New("simcam: --user needs a password in AFTERIMAGE_SIMCAM_PASSWORD")
	}
	server, err := simcam.ServeRTSP(simcam.NewRenderer(simcam.NewScript(c.Seed, c.Length), simcam.SceneW, simcam.SceneH), simcam.RTSPOptions{
		Addr: c.RTSP, AnyInterface: c.AnyInterface, FPS: c.FPS, User: c.User, Password: password, NewEncoder: withSimEncoder, Log: a.log,
	})
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Fprintf(a.out, "simulated camera, seed %d, at %s\nCtrl-C stops it.\n", c.Seed, server.URL())
	if c.Length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Length)
		defer cancel()
	}
	<-ctx.Done()
	return nil
}

func (c *simcamCmd) write(ctx context.Context, a *app) error {
	length := first(c.Length, defaultClip)
	script := simcam.NewScript(c.Seed, length)
	bar := newProgress(a, "drawing and coding", int(length.Seconds())*c.FPS)
	if err := writeClip(ctx, c.Out, script, length, c.FPS, bar.step); err != nil {
		return err
	}
	bar.done()
	if c.Questions != "" {
		if err := writeQuestions(c.Questions, script, length); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.out, "wrote %s (%s, seed %d)\n", c.Out, length, c.Seed)
	return nil
}

// writeClip draws and codes a script from its start. step, unless nil, is called after every picture.
func writeClip(ctx context.Context, file string, script *simcam.Script, length time.Duration, fps int, step func()) error {
	w, h := simcam.SceneW, simcam.SceneH
	r, n, total := simcam.NewRenderer(script, w, h), 0, int(length.Seconds()*float64(fps))
	picture := make([]byte, 3*w*h)
	return ffmpeg.WriteMP4(file, w, h, float64(fps), func() ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if n == total {
			return nil, io.EOF
		}
		r.Render(picture, time.Duration(n)*time.Second/time.Duration(fps))
		n++
		if step != nil {
			step()
		}
		return picture, nil
	})
}

// clipEpoch is what a clip's clock times count from: a watcher of the file that wants to be asked its questions sets the same.
func clipEpoch() time.Time { return time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC) }

// writeQuestions writes six questions a minute, each to be asked at its time, and the epoch of the clock times in them.
func writeQuestions(file string, script *simcam.Script, length time.Duration) error {
	doc := struct {
		Seed      uint64         `json:"seed"`
		Epoch     string         `json:"epoch"`
		Questions []simcam.Truth `json:"questions"`
	}{Seed: script.Seed, Epoch: stamp(clipEpoch())}
	for at := 30 * time.Second; at <= length; at += time.Minute {
		doc.Questions = append(doc.Questions, script.Questions(clipEpoch(), at, 6, script.Seed^uint64(at))...)
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("simcam: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("simcam: %w", err)
	}
	return nil
}
