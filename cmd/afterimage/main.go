// Command afterimage watches live video and answers questions about it at any moment. Every choice (devices, model, strategy,
// source) is made in this package, and only here are flags, files and the environment read.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"afterimage/web"
)

// cli is the whole command line.
type cli struct {
	Settings

	Serve       serveCmd       `cmd:"" help:"Watch the streams of a configuration file and serve the page and the API."`
	Ask         askCmd         `cmd:"" help:"Watch one source for a while, then answer a question about it."`
	Demo        demoCmd        `cmd:"" help:"Show everything at work on a simulated camera, no set-up needed."`
	Simcam      simcamCmd      `cmd:"" help:"Be the simulated camera: over RTSP, or as a clip with its ground truth."`
	Bench       benchCmd       `cmd:"" help:"Measure answers, speed or steadiness on this machine."`
	Pull        pullCmd        `cmd:"" help:"Get a public model from its hub."`
	List        listCmd        `cmd:"" help:"List models and memory strategies."`
	Show        showCmd        `cmd:"" help:"Say what a model is, what it takes and how it remembers."`
	Rm          rmCmd          `cmd:"" help:"Remove a model that was pulled."`
	Watch       watchCmd       `cmd:"" help:"Standing questions: list, add and remove them, or say when one would have fired."`
	Memory      memoryCmd      `cmd:"" help:"Look at what streams remember on disk; save, load, fork, compare it, or have it forgotten."`
	Doctor      doctorCmd      `cmd:"" help:"Check that this machine has what is needed, and say what to do where it has not."`
	CheckConfig checkConfigCmd `cmd:"" name:"check-config" help:"Check a configuration file and print what it means."`
	Token       tokenCmd       `cmd:"" help:"Make, list and remove the tokens that let people and programs use a server."`
	Completion  completionCmd  `cmd:"" help:"Print a completion script for a shell."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
	GPUs        gpusCmd        `cmd:"" name:"gpus" hidden:"" help:"Print the GPUs that can be used, as JSON."`
}

// Settings are the flags that every verb has.
type Settings struct {
	Model     string     `placeholder:"NAME" env:"AFTERIMAGE_MODEL" help:"A model that was pulled (its short name, or ORG/NAME[@revision]) or a model directory; without one, the model inside this program."`
	Device    deviceName `placeholder:"NAME" env:"AFTERIMAGE_DEVICE" help:"Where models run: auto (every GPU that the streams can use, else the processor), cpu, cuda (the first GPU), cuda:N or cuda:all."`
	Quant     quantName  `aliases:"weights" placeholder:"TYPE" env:"AFTERIMAGE_QUANT,AFTERIMAGE_WEIGHTS" help:"How weights are held: bf16, int8 or int4 (smaller and faster, less exact), or f32."`
	Pixels    int        `placeholder:"N" env:"AFTERIMAGE_PIXELS" help:"Most pixels of a picture for models that take any size (Qwen2-VL); 0 means 448 x 448."`
	Context   int        `placeholder:"N" env:"AFTERIMAGE_CONTEXT" help:"Positions that a question and its memory may take; 0 means what the model was made for (on the processor at most 4096)."`
	Lean      bool       `env:"AFTERIMAGE_LEAN" help:"Take as little GPU memory as the model allows: for a model that nearly fills the card."`
	Threads   int        `placeholder:"N" env:"AFTERIMAGE_THREADS" help:"CPU threads in all; 0 means every core."`
	CPU       string     `name:"cpu" placeholder:"LEVEL" env:"AFTERIMAGE_CPU" help:"Force a level of CPU kernels: scalar, avx2, avx512 or amx."`
	LogLevel  string     `placeholder:"LEVEL" enum:"debug,info,warn,error," default:"" env:"AFTERIMAGE_LOG_LEVEL" help:"What to log: debug, info, warn or error. By default info for serve and simcam, warn for the rest."`
	LogFormat string     `placeholder:"FORMAT" enum:"auto,text,json" default:"auto" env:"AFTERIMAGE_LOG_FORMAT" help:"How to log: text, json, or auto (text on a terminal)."`
}

// app is what a verb works with.
type app struct {
	Settings
	in      io.Reader
	inTTY   bool
	out     io.Writer // answers and results
	err     io.Writer // logs and progress
	errTTY  bool
	log     *slog.Logger
	lookup  func(string) (string, bool)
	environ environ // what may replace a configuration's keys and values
	host    *host   // nil: this program does all itself

	metrics *web.Metrics // of a server; nil: nobody measures
}

const description = `Watches live video and answers questions about it at any moment, from a memory that never grows.

Start with:
  afterimage demo                                      a simulated camera, the page at http://127.0.0.1:8765
  afterimage pull smolvlm2-256m                        a public model for your own camera, then --model smolvlm2-256m
  afterimage ask rtsp://CAMERA/stream "Is the door open?"
  afterimage serve config.yaml`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	code := run(ctx, os.Args[1:], &app{
		in: os.Stdin, inTTY: isTerminal(os.Stdin), out: os.Stdout, err: os.Stderr, errTTY: isTerminal(os.Stderr), lookup: os.LookupEnv, environ: os.Environ(),
		host: realHost(),
	})
	os.Exit(code)
}

// exitCode is how kong's --help leaves the parser without ending the process.
type exitCode int

// run parses args, runs the verb and returns the exit status: 0 done, 1 failed, 2 wrong usage.
func run(ctx context.Context, args []string, a *app) (code int) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exitCode)
			if !ok {
				panic(r)
			}
			code = int(e)
		}
	}()
	var c cli
	parser, err := newParser(&c, a.out, a.err)
	if err != nil {
		panic(err) // the grammar above is wrong: ours
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(a.err, "afterimage: %v\nRun \"afterimage --help\", or with a verb: \"afterimage serve --help\".\n", err)
		return 2
	}
	a.Settings = c.Settings
	level := c.LogLevel
	if verb := k.Command(); level == "" && (strings.HasPrefix(verb, "serve") || verb == "simcam") {
		level = "info"
	}
	a.log = newLogger(a.err, a.errTTY, first(level, "warn"), c.LogFormat)
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(a, parser); err != nil {
		switch {
		case errors.Is(err, errSaid):
		case errors.Is(err, context.Canceled) && ctx.Err() != nil:
			fmt.Fprintln(a.err, "afterimage: stopped")
		default:
			fmt.Fprintf(a.err, "afterimage: %v\n", err)
		}
		return 1
	}
	return 0
}

// errSaid is a failure that the verb itself has told the user about.
var errSaid = errors.New("failed")

func newParser(c *cli, out, err io.Writer) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("afterimage"),
		kong.Description(description),
		kong.Writers(out, err),
		kong.Vars{"listen": defaultListen},
		kong.Exit(func(code int) { panic(exitCode(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: 110}),
	)
}
