package main

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"

	"afterimage/web"
)

type tokenCmd struct {
	New  tokenNewCmd  `cmd:"" help:"Make a token, print it once and keep its hash in a file."`
	List tokenListCmd `cmd:"" help:"List the tokens of a file."`
	Rm   tokenRmCmd   `cmd:"" help:"Take a token out of a file. A running server stops accepting it within seconds."`
}

// tokenFile names the file for every verb about tokens.
type tokenFile struct {
	File string `required:"" type:"path" placeholder:"FILE" env:"AFTERIMAGE_AUTH_TOKENS_FILE" help:"The tokens file, as auth: {tokens_file: FILE} in the configuration names it."`
}

type tokenNewCmd struct {
	tokenFile `embed:""`

	Name    string   `arg:"" help:"Who it is for: letters, digits, - and _."`
	Role    string   `enum:"read,ask,admin" default:"ask" help:"What it may do (${default}): read (pictures and states), ask (and ask), admin (and change)."`
	Streams []string `placeholder:"NAME" help:"The streams that it is for; without this, all."`
}

func (c *tokenNewCmd) Help() string {
	return `The token is printed once and cannot be had again: the file keeps its SHA-256 only. A running server reads the file anew by itself.

Examples:
  afterimage token new kitchen-tablet --role read --streams front_door,yard --file /etc/afterimage/tokens
  afterimage token new operator --role admin --file /etc/afterimage/tokens`
}

func (c *tokenNewCmd) Run(a *app) error {
	tokens, err := readTokens(c.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var role web.Role
	if err := role.UnmarshalText([]byte(c.Role)); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	secret := "ai_" + strings.ToLower(rand.Text())
	t := web.Token{Name: c.Name, Hash: sha256.Sum256([]byte(secret)), Role: role, Streams: c.Streams}
	switch {
	case !tokenName.MatchString(c.Name):
		return errors.New("token: a name is letters, digits, - and _, at most 64")
	case slices.ContainsFunc(tokens, func(o web.Token) bool { return o.Name == c.Name }):
		return fmt.Errorf("token: %s has a token named %s already; take it out first with: afterimage token rm %s --file %s", c.File, c.Name, c.Name, c.File)
	case slices.ContainsFunc(c.Streams, func(s string) bool { return !streamName.MatchString(s) }):
		return errors.New("token: --streams: want names of streams, with commas between")
	}
	if err := writeTokens(c.File, append(tokens, t)); err != nil {
		return err
	}
	fmt.Fprintln(a.out, secret)
	fmt.Fprintf(a.err, "This is the token of %s (%s, %s); it is not shown again. Its hash is in %s.\n", t.Name, t.Role, streamsOf(t), c.File)
	return nil
}

type tokenListCmd struct {
	tokenFile `embed:""`
}

func (c *tokenListCmd) Run(a *app) error {
	tokens, err := readTokens(c.File)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tSTREAMS\tSHA256")
	for _, t := range tokens {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s…\n", t.Name, t.Role, streamsOf(t), hex.EncodeToString(t.Hash[:6]))
	}
	return w.Flush()
}

type tokenRmCmd struct {
	tokenFile `embed:""`

	Name string `arg:"" help:"Whose token."`
}

func (c *tokenRmCmd) Run(a *app) error {
	tokens, err := readTokens(c.File)
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(tokens), func(t web.Token) bool { return t.Name == c.Name })
	if len(kept) == len(tokens) {
		return fmt.Errorf("token: %s has no token named %s", c.File, c.Name)
	}
	if err := writeTokens(c.File, kept); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s's token is gone; %d left\n", c.Name, len(kept))
	return nil
}

var tokenName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func streamsOf(t web.Token) string {
	if t.Streams == nil {
		return "all streams"
	}
	return strings.Join(t.Streams, ",")
}

const maxTokens = 10_000

// readTokens reads a tokens file: a line each of name, role (read, ask, admin), streams with commas between (or * for all) and the token's
// SHA-256 in hexadecimal. Empty lines and those that begin with # are left out. Who may write the file decides who may do what, so nobody
// but its owner may; the hashes tell nothing.
func readTokens(file string) ([]web.Token, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("auth: tokens_file: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("auth: tokens_file %s can be written by others: chmod 600 it", file)
	}
	var tokens []web.Token
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		t, err := parseToken(line)
		switch {
		case err != nil:
		case slices.ContainsFunc(tokens, func(o web.Token) bool { return o.Name == t.Name }):
			err = fmt.Errorf("a second token of the name %s", t.Name)
		case len(tokens) == maxTokens:
			err = fmt.Errorf("more than %d tokens", maxTokens)
		}
		if err != nil {
			return nil, fmt.Errorf("auth: tokens_file %s:%d: %w", file, n, err)
		}
		tokens = append(tokens, t)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("auth: tokens_file %s: %w", file, err)
	}
	return tokens, nil
}

// parseToken reads one line. Its errors repeat nothing but names: who mistakes the file's purpose may have put a token into it.
func parseToken(line string) (t web.Token, err error) {
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return t, errors.New("want four words: name, role, streams (or *) and the SHA-256 of the token; afterimage token new writes them")
	}
	if t.Name = fields[0]; !tokenName.MatchString(t.Name) {
		return t, errors.New("a name is letters, digits, - and _, at most 64")
	}
	if err := t.Role.UnmarshalText([]byte(fields[1])); err != nil {
		return t, errors.New("a role is read, ask or admin")
	}
	if fields[2] != "*" {
		t.Streams = strings.Split(fields[2], ",")
		if slices.ContainsFunc(t.Streams, func(s string) bool { return !streamName.MatchString(s) }) {
			return t, errors.New("want names of streams with commas between, or *")
		}
	}
	sum, err := hex.DecodeString(fields[3])
	if err != nil || len(sum) != sha256.Size {
		return t, fmt.Errorf("the SHA-256 of a token has %d hexadecimal digits", 2*sha256.Size)
	}
	copy(t.Hash[:], sum)
	return t, nil
}

// writeTokens replaces a tokens file, readable by its owner only, so that a server never sees half of it.
func writeTokens(file string, tokens []web.Token) (err error) {
	var b strings.Builder
	b.WriteString("# Who may use the server: name, role, streams, SHA-256 of the token. See afterimage token --help.\n")
	for _, t := range tokens {
		fmt.Fprintf(&b, "%s %s %s %x\n", t.Name, t.Role, cmp.Or(strings.Join(t.Streams, ","), "*"), t.Hash)
	}
	return replaceFile(file, []byte(b.String()))
}

// replaceFile writes a file of the owner's own (mode 0600) by way of a temporary one.
func replaceFile(file string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// tokenSet is the tokens of a configuration's files at the moment.
type tokenSet struct{ list atomic.Pointer[[]web.Token] }

// loadTokens reads what an AuthConfig names: none where it names nothing.
func loadTokens(c AuthConfig) ([]web.Token, error) {
	var tokens []web.Token
	if c.TokensFile != "" {
		var err error
		if tokens, err = readTokens(c.TokensFile); err != nil {
			return nil, err
		}
		if len(tokens) == 0 && c.TokenFile == "" {
			return nil, fmt.Errorf("auth: tokens_file %s has no token; make one with: afterimage token new NAME --role admin --file %s", c.TokensFile, c.TokensFile)
		}
	}
	token, err := readToken(c.TokenFile)
	if err != nil {
		return nil, err
	}
	if token != "" {
		tokens = append(tokens, web.Token{Name: "token_file", Hash: sha256.Sum256([]byte(token)), Role: web.RoleAdmin})
	}
	return tokens, nil
}

func (s *tokenSet) set(tokens []web.Token) { s.list.Store(&tokens) }

// get implements web.Config.Tokens.
func (s *tokenSet) get() []web.Token {
	if l := s.list.Load(); l != nil {
		return *l
	}
	return nil
}
