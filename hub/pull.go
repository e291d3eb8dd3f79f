package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// small are the files beside the weights that a model may need, in the order in which they are pulled.
var small = []string{
	configFile, "generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
	"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
	"chat_template.json", "chat_template.jinja", indexFile,
}

// learned is the file of what a model has learned for remembering, where it has one.
const learned = "memory.safetensors"

// together is how many files are pulled at once.
const together = 3

// Progress is how far a pull has come.
type Progress struct {
	Files, FilesDone int
	Bytes, BytesDone int64  // Bytes grows once, when it is known which weights there are
	BytesHere        int64  // of BytesDone, that were here before
	Waiting          string // a file that another process is pulling; "" mostly
}

// PullOptions say how to pull.
type PullOptions struct {
	Verify   bool           // read what is here already, too, and pull again what does not have its hash
	Progress func(Progress) // called often, from one goroutine at a time; nil: nobody is told
}

// Pulled is a finished pull.
type Pulled struct {
	*Snapshot
	Licence string // as the hub names it; "" if it does not
}

// Pull makes a model be here: all of its files, checked, or an error. What was downloaded before an error, or before ctx ended, stays
// and is gone on from the next time. Only when everything is here does the revision's name lead to it.
func (h *Hub) Pull(ctx context.Context, n Name, o PullOptions) (*Pulled, error) {
	if h.Cache == "" {
		return nil, errNoCache
	}
	if h.Offline {
		s, err := h.Snapshot(n)
		if errors.Is(err, fs.ErrNotExist) || err == nil && s.Missing != "" {
			return nil, errOffline(n)
		}
		return &Pulled{Snapshot: s}, err
	}
	p, err := h.start(ctx, n, o)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", n, err)
	}
	defer p.root.Close()
	if err := p.all(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("pull %s: %w", n, err)
	}
	s, err := h.Snapshot(n)
	if err == nil && s.Missing != "" {
		err = fmt.Errorf("pull %s: %s is missing after all was pulled", n, s.Missing)
	}
	return &Pulled{s, p.list.licence}, err
}

// pull is a Pull under way.
type pull struct {
	h    *Hub
	n    Name
	o    PullOptions
	list *listing
	dir  string
	root *os.Root // of dir: all is written through it, so that no link leads out

	mu sync.Mutex // guards at, and calls of o.Progress
	at Progress
}

// start asks what there is and makes the directories.
func (h *Hub) start(ctx context.Context, n Name, o PullOptions) (_ *pull, err error) {
	p := &pull{h: h, n: n, o: o, dir: filepath.Join(h.Cache, n.folder())}
	if p.list, err = h.list(ctx, n); err != nil {
		return nil, err
	}
	if _, ok := p.list.find(configFile); !ok {
		return nil, fmt.Errorf("%s has no %s at its top: it is no model that this program reads", n, configFile)
	}
	if !hasWeights(p.list) {
		return nil, h.errNoWeights(ctx, n, p.list)
	}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	tag := filepath.Join(h.Cache, "CACHEDIR.TAG") // tells backup programs to leave it out
	if _, err := os.Stat(tag); errors.Is(err, fs.ErrNotExist) {
		_ = os.WriteFile(tag, []byte("Signature: 8a477f597d28d172789f06886806bc55\n"), 0o644) // none is no harm
	}
	if p.root, err = os.OpenRoot(p.dir); err != nil {
		return nil, err
	}
	for _, d := range []string{"blobs", "refs", "snapshots/" + p.list.commit, ".no_exist/" + p.list.commit} {
		if err := p.root.MkdirAll(filepath.FromSlash(d), 0o755); err != nil {
			return nil, errors.Join(err, p.root.Close())
		}
	}
	return p, nil
}

// all pulls the small files, then the weights, then writes down what the revision means.
func (p *pull) all(ctx context.Context) error {
	var first []File
	for _, name := range small {
		f, ok := p.list.find(name)
		if !ok {
			if err := p.put(".no_exist/"+p.list.commit+"/"+name, ""); err != nil { // what Hugging Face's libraries look at
				return err
			}
			continue
		}
		if f.Size > maxSmall {
			return fmt.Errorf("%s: %d bytes are more than the %d that such a file may have", name, f.Size, maxSmall)
		}
		first = append(first, f)
	}
	if err := p.files(ctx, first); err != nil {
		return err
	}
	weights, err := p.weights()
	if err != nil {
		return err
	}
	if err := p.files(ctx, weights); err != nil {
		return err
	}
	if p.n.Revision == p.list.commit {
		return nil
	}
	return p.put("refs/"+p.n.Revision, p.list.commit)
}

// weights are the files that hold the weights, as the index says where there is one.
func (p *pull) weights() ([]File, error) {
	want := []string{singleFile}
	if _, ok := p.list.find(indexFile); ok {
		text, err := os.ReadFile(filepath.Join(p.dir, "snapshots", p.list.commit, indexFile))
		if err != nil {
			return nil, err
		}
		if want, err = shardNames(text); err != nil {
			return nil, err
		}
	}
	if _, ok := p.list.find(learned); ok && !slices.Contains(want, learned) {
		want = append(want, learned)
	}
	var out []File
	for _, name := range want {
		f, ok := p.list.find(name)
		if !ok {
			return nil, fmt.Errorf("%s names %s, which %s does not have", indexFile, name, p.n)
		}
		out = append(out, f)
	}
	return out, nil
}

// files pulls several files, a few at once. The first error ends all.
func (p *pull) files(ctx context.Context, files []File) error {
	var bytes, need int64
	for i := range files {
		if err := p.complete(ctx, &files[i]); err != nil {
			return fmt.Errorf("%s: %w", files[i].Name, err)
		}
		f := files[i]
		bytes += f.Size
		need += f.Size
		if info, err := os.Stat(p.blob(f)); err == nil {
			need -= info.Size()
		} else if info, err := os.Stat(p.blob(f) + incomplete); err == nil {
			need -= min(info.Size(), f.Size)
		}
	}
	const spare = 16 << 20 // directories, and whatever else is written meanwhile
	if free, err := p.h.free(p.dir); err == nil && need > 0 && need+spare > free {
		return fmt.Errorf("%s more are needed and %s are free in %s: make room (afterimage list models, afterimage rm), or set HF_HUB_CACHE to another disk",
			gigabytes(need), gigabytes(free), p.h.Cache)
	}
	p.tell(func(at *Progress) { at.Files, at.Bytes = at.Files+len(files), at.Bytes+bytes })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for _, f := range files {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := p.file(ctx, f); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func gigabytes(n int64) string { return fmt.Sprintf("%.2f GB", float64(n)/1e9) }

// complete asks for a file's size and hash where the list did not say.
func (p *pull) complete(ctx context.Context, f *File) error {
	if f.Size >= 0 && f.hash != "" {
		return nil
	}
	return p.h.again(ctx, func() (bool, error) {
		w, cancel := p.h.watch(ctx)
		defer cancel(nil)
		a, err := p.h.do(w.ctx, http.MethodHead, p.n, p.path(*f), 0)
		if err != nil {
			return false, err
		}
		a.Body.Close()
		size := a.hub.Get("X-Linked-Size")
		if size == "" && a.StatusCode == http.StatusOK {
			size = a.hub.Get("Content-Length")
		}
		tag := etag(a.hub)
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n < 0 || n > maxFile || tag == "" {
			return false, fmt.Errorf("%s tells neither in its list nor in its headers how long the file is and what its hash is", p.h.endpoint.Host)
		}
		f.Size, f.hash = n, tag
		return false, nil
	})
}

// etag is the hash of a file that the hub's headers tell, or "".
func etag(header http.Header) string {
	for _, name := range []string{"X-Linked-Etag", "Etag"} {
		v := strings.Trim(strings.TrimPrefix(header.Get(name), "W/"), `"`)
		if sha256Name.MatchString(v) || sha1Name.MatchString(v) {
			return v
		}
	}
	return ""
}

// path is where the hub has a file, at the commit that the list was of.
func (p *pull) path(f File) string {
	return "/" + p.n.Repo + "/resolve/" + p.list.commit + "/" + url.PathEscape(f.Name)
}

const incomplete = ".incomplete"

func (p *pull) blob(f File) string { return filepath.Join(p.dir, "blobs", f.hash) }

// tell changes what is known of the progress and passes it on.
func (p *pull) tell(change func(at *Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.at)
	if p.o.Progress != nil {
		p.o.Progress(p.at)
	}
}

// file makes one file be in the snapshot, holding the lock of its blob.
func (p *pull) file(ctx context.Context, f File) error {
	lock, err := p.lock(ctx, f)
	if err != nil {
		return err
	}
	defer lock.Close()
	here, err := p.here(f)
	if err != nil {
		return err
	}
	if here {
		p.tell(func(at *Progress) { at.BytesDone, at.BytesHere = at.BytesDone+f.Size, at.BytesHere+f.Size })
	} else if err := p.download(ctx, f); err != nil {
		return err
	}
	if err := p.link(f); err != nil {
		return err
	}
	p.tell(func(at *Progress) { at.FilesDone++ })
	return nil
}

// lock waits for whoever else is pulling the same file: then it is here.
func (p *pull) lock(ctx context.Context, f File) (*os.File, error) {
	said := false
	for {
		lock, ok, err := p.h.lock(p.n, f.hash)
		if err != nil || ok {
			if said {
				p.tell(func(at *Progress) { at.Waiting = "" })
			}
			return lock, err
		}
		if !said {
			said = true
			p.tell(func(at *Progress) { at.Waiting = f.Name })
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// here says whether the blob is. One of another size, or with Verify of another hash, is removed.
func (p *pull) here(f File) (bool, error) {
	info, err := os.Stat(p.blob(f)) // may be a link to what several models share
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	good := info.Mode().IsRegular() && info.Size() == f.Size
	if good && p.o.Verify {
		in, err := os.Open(p.blob(f))
		if err != nil {
			return false, err
		}
		sum := newSum(f)
		_, err = io.Copy(sum, in)
		in.Close()
		if err != nil {
			return false, err
		}
		good = hex.EncodeToString(sum.Sum(nil)) == f.hash
	}
	if good {
		return true, nil
	}
	return false, p.root.Remove("blobs/" + f.hash)
}

// newSum is what computes the hash of f: sha256, or git's of a file that is small.
func newSum(f File) hash.Hash {
	if len(f.hash) == 64 {
		return sha256.New()
	}
	sum := sha1.New()
	fmt.Fprintf(sum, "blob %d\x00", f.Size)
	return sum
}

// link puts a file into the snapshot: a link to its blob, or a copy where the file system has no links. What is there is replaced
// at once or not at all.
func (p *pull) link(f File) error {
	name := filepath.Join("snapshots", p.list.commit, f.Name)
	to := filepath.Join("..", "..", "blobs", f.hash)
	if have, err := p.root.Readlink(name); err == nil && have == to {
		return nil
	}
	part := name + ".part"  // the blob's lock is held: nobody else makes the same link
	_ = p.root.Remove(part) // of one that was killed
	err := p.root.Symlink(to, part)
	if err != nil {
		err = p.copyBlob(f, part)
	}
	if err == nil {
		err = p.root.Rename(part, name)
	}
	if err != nil {
		_ = p.root.Remove(part)
		return fmt.Errorf("in the snapshot: %w", err)
	}
	return nil
}

func (p *pull) copyBlob(f File, to string) error {
	in, err := os.Open(p.blob(f))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := p.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// put writes a small file, whole or not at all.
func (p *pull) put(name, text string) error {
	name = filepath.FromSlash(name)
	if info, err := p.root.Stat(name); err == nil && info.Size() == 0 && text == "" {
		return nil
	}
	if err := p.root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	part := name + "." + strconv.Itoa(os.Getpid()) + ".tmp"
	if err := p.root.WriteFile(part, []byte(text), 0o644); err != nil {
		return err
	}
	return p.root.Rename(part, name)
}

// download is one blob on its way here.
type download struct {
	p    *pull
	f    File
	out  *os.File
	sum  hash.Hash
	have int64
}

// progressed is so many bytes that a connection which broke has been of use, and may be tried again as if it were the first.
const progressed = 1 << 20

// download gets a blob, beginning where an earlier attempt stopped, and gives it its name once its hash is right.
func (p *pull) download(ctx context.Context, f File) error {
	part := "blobs/" + f.hash + incomplete
	if info, err := p.root.Lstat(part); err == nil && !info.Mode().IsRegular() {
		if err := p.root.Remove(part); err != nil {
			return err
		}
	}
	out, err := p.root.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	d := &download{p: p, f: f, out: out}
	if err = d.resume(); err == nil {
		wrong := false
		err = p.h.again(ctx, func() (bool, error) {
			before := d.have
			if err := d.rest(ctx); err != nil {
				return d.have-before >= progressed, err
			}
			got := hex.EncodeToString(d.sum.Sum(nil))
			if got == f.hash {
				return false, nil
			}
			err := fmt.Errorf("what came has the hash %s, and should have %s", got, f.hash)
			if e := d.restart(); e != nil {
				return false, e
			}
			if wrong {
				return false, fmt.Errorf("%w; twice, so %s is at fault, or something on the way to it", err, p.h.endpoint.Host)
			}
			wrong = true
			return true, temporary{err}
		})
	}
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if diskFull(err) {
		err = fmt.Errorf("the disk is full: make room and run the same command again, it goes on from here: %w", err)
	}
	if err == nil {
		err = p.root.Rename(part, "blobs/"+f.hash)
	}
	return err
}

// resume reads what an earlier attempt left.
func (d *download) resume() error {
	info, err := d.out.Stat()
	if err != nil {
		return err
	}
	d.sum = newSum(d.f)
	if info.Size() > d.f.Size {
		return d.out.Truncate(0)
	}
	n, err := io.Copy(d.sum, d.out)
	d.have = n
	d.p.tell(func(at *Progress) { at.BytesDone, at.BytesHere = at.BytesDone+n, at.BytesHere+n })
	return err
}

// restart forgets what came so far.
func (d *download) restart() error {
	d.p.tell(func(at *Progress) { at.BytesDone, at.BytesHere = at.BytesDone-d.have, max(0, at.BytesHere-d.have) })
	d.have = 0
	d.sum.Reset()
	if len(d.f.hash) != 64 {
		d.sum = newSum(d.f)
	}
	if err := d.out.Truncate(0); err != nil {
		return err
	}
	_, err := d.out.Seek(0, io.SeekStart)
	return err
}

// rest gets what is not here yet.
func (d *download) rest(ctx context.Context) error {
	if d.have == d.f.Size {
		return nil
	}
	h := d.p.h
	w, cancel := h.watch(ctx)
	defer cancel(nil)
	a, err := h.do(w.ctx, http.MethodGet, d.p.n, d.p.path(d.f), d.have)
	if s := (*statusError)(nil); errors.As(err, &s) && s.code == http.StatusRequestedRangeNotSatisfiable && d.have > 0 {
		return errors.Join(d.restart(), temporary{err})
	}
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if err := d.check(a); err != nil {
		return err
	}
	w.body = a.Body
	buf := make([]byte, 256<<10)
	for {
		n, err := w.Read(buf)
		if int64(n) > d.f.Size-d.have {
			return fmt.Errorf("%s sends more than the %d bytes that the file has", a.Request.URL.Host, d.f.Size)
		}
		if n > 0 {
			if _, err := d.out.Write(buf[:n]); err != nil {
				return err
			}
			d.sum.Write(buf[:n])
			d.have += int64(n)
			d.p.tell(func(at *Progress) { at.BytesDone += int64(n) })
		}
		switch {
		case err == io.EOF && d.have == d.f.Size:
			return nil
		case err == io.EOF:
			return temporary{fmt.Errorf("%s ended the file after %d of %d bytes", a.Request.URL.Host, d.have, d.f.Size)}
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", d.have, d.f.Size, err)
		}
	}
}

// check compares what the headers say with the list, and begins anew where the server does.
func (d *download) check(a *answer) error {
	host, from := d.p.h.endpoint.Host, a.Request.URL.Host
	if c := a.hub.Get("X-Repo-Commit"); c != "" && c != d.p.list.commit {
		return fmt.Errorf("%s gives the file of commit %.60q, asked for %s", host, c, d.p.list.commit)
	}
	if tag := etag(a.hub); tag != "" && tag != d.f.hash {
		return fmt.Errorf("%s lists the hash %s and then says %s", host, d.f.hash, tag)
	}
	if s := a.hub.Get("X-Linked-Size"); s != "" && s != strconv.FormatInt(d.f.Size, 10) {
		return fmt.Errorf("%s lists %d bytes and then says %.30q", host, d.f.Size, s)
	}
	switch a.StatusCode {
	case http.StatusOK:
		if d.have > 0 { // a server that cannot begin in the middle
			if err := d.restart(); err != nil {
				return err
			}
		}
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", d.have, d.f.Size-1, d.f.Size)
		if got := a.Header.Get("Content-Range"); d.have == 0 || got != want {
			return errors.Join(d.restart(), temporary{fmt.Errorf("%s sends the part %.60q, asked for %q", from, got, want)})
		}
	default:
		return fmt.Errorf("%s says %d where it should send the file", from, a.StatusCode)
	}
	if n := a.ContentLength; n >= 0 && n != d.f.Size-d.have {
		return fmt.Errorf("%s announces %d bytes where %d are left; a proxy that answers in its place?", from, n, d.f.Size-d.have)
	}
	return nil
}
