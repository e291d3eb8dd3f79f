package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	configFile = "config.json"
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
)

// Snapshot is a model of the cache at one commit.
type Snapshot struct {
	Repo    string
	Commit  string
	Refs    []string // branches, tags and pull requests that meant the commit when they were pulled
	Dir     string   // the model directory
	Files   []File   // at its top
	Bytes   int64    // of all its files
	Missing string   // the first file that a finished pull would have; "": it is finished
}

// Name is how the snapshot is asked for.
func (s *Snapshot) Name() Name {
	n := Name{Repo: s.Repo, Revision: s.Commit}
	for _, ref := range s.Refs {
		if e, ok := entryOf(s.Repo, ref); ok {
			return Name{Repo: s.Repo, Revision: ref, Short: e.Short}
		}
		if n.Revision == s.Commit || ref == mainRevision {
			n.Revision = ref
		}
	}
	return n
}

// Resolve is the function of the same name, with h's cache.
func (h *Hub) Resolve(name string) (string, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return name, nil
	case err == nil:
		return "", fmt.Errorf("%s is a file; name the directory that holds config.json, tokenizer.json and *.safetensors", name)
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	n, err := ParseName(name)
	if err != nil || filepath.IsAbs(name) || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("there is no directory %s, and no model of that name: \"afterimage list models\" shows names; also ORG/NAME[@revision]", name)
	}
	s, err := h.Snapshot(n)
	if err != nil {
		return "", err
	}
	if s.Missing != "" {
		return "", fmt.Errorf("%s was not pulled to its end (%s is missing): afterimage pull %s", n, s.Missing, n)
	}
	return s.Dir, nil
}

// Snapshot looks a name up in the cache. What was never pulled wraps fs.ErrNotExist.
func (h *Hub) Snapshot(n Name) (*Snapshot, error) {
	if h.Cache == "" {
		return nil, errNoCache
	}
	dir := filepath.Join(h.Cache, n.folder())
	commit := n.Revision
	if !commitOK.MatchString(commit) {
		text, err := readSmall(filepath.Join(dir, "refs", filepath.FromSlash(n.Revision)))
		if commit = strings.TrimSpace(string(text)); err != nil || !commitOK.MatchString(commit) {
			return nil, absent{n}
		}
	}
	s, err := snapshot(dir, n.Repo, commit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, absent{n}
	}
	return s, err
}

var errNoCache = errors.New("hub: no directory for models is known: set HF_HOME or HF_HUB_CACHE")

// absent is the error of a model that is not in the cache.
type absent struct{ n Name }

func (a absent) Error() string {
	return fmt.Sprintf("%s is not on this machine: afterimage pull %s", a.n, a.n)
}
func (a absent) Is(target error) bool { return target == fs.ErrNotExist }

// readSmall reads a file that has a line or so.
func readSmall(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > 1<<10) {
		err = fs.ErrInvalid
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

// snapshot describes a commit of a model's directory in the cache.
func snapshot(dir, repo, commit string) (*Snapshot, error) {
	s := &Snapshot{Repo: repo, Commit: commit, Dir: filepath.Join(dir, "snapshots", commit)}
	list, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		info, err := os.Stat(filepath.Join(s.Dir, e.Name()))
		if err == nil && info.Mode().IsRegular() { // a link to nothing is a file that is not there
			s.Files, s.Bytes = append(s.Files, File{Name: e.Name(), Size: info.Size()}), s.Bytes+info.Size()
		}
	}
	s.Missing = s.missing()
	refs := filepath.Join(dir, "refs")
	err = filepath.WalkDir(refs, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, ".tmp") {
			return nil // what cannot be read is no ref, nor is what someone died writing
		}
		text, err := readSmall(path)
		if err == nil && strings.TrimSpace(string(text)) == commit {
			if ref, err := filepath.Rel(refs, path); err == nil {
				s.Refs = append(s.Refs, filepath.ToSlash(ref))
			}
		}
		return nil
	})
	return s, err
}

func (s *Snapshot) has(name string) bool {
	return slices.ContainsFunc(s.Files, func(f File) bool { return f.Name == name })
}

// missing names a file that a model directory must have. Weights are pulled last, so where they are, everything is.
func (s *Snapshot) missing() string {
	switch {
	case !s.has(configFile):
		return configFile
	case s.has(indexFile):
		text, err := os.ReadFile(filepath.Join(s.Dir, indexFile))
		if err != nil {
			return indexFile
		}
		shards, err := shardNames(text)
		if err != nil {
			return indexFile
		}
		for _, name := range shards {
			if !s.has(name) {
				return name
			}
		}
	case !s.has(singleFile):
		return singleFile
	}
	return ""
}

// shardNames are the files that an index of weights names, in order.
func shardNames(index []byte) ([]string, error) {
	var raw struct {
		Map map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(index, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	var names []string
	for _, name := range raw.Map {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		if len(names) > 1000 {
			return nil, fmt.Errorf("%s: more than 1000 files", indexFile)
		}
	}
	for _, name := range names {
		if checkPath(name) != nil || strings.Contains(name, "/") || !strings.HasSuffix(name, ".safetensors") {
			return nil, fmt.Errorf("%s: %.80q is not the name of a safetensors file beside it", indexFile, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: weight_map is empty", indexFile)
	}
	slices.Sort(names)
	return names, nil
}

// Model is all that the cache has of a repository.
type Model struct {
	Repo      string
	Snapshots []*Snapshot
	Bytes     int64 // on disk: files that snapshots share count once, unfinished ones too
	dir       string
}

// Models lists the cache, by name. Repositories without a config.json are not models and left out.
func (h *Hub) Models() ([]*Model, error) {
	if h.Cache == "" {
		return nil, errNoCache
	}
	list, err := os.ReadDir(h.Cache)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("hub: %w", err)
	}
	var out []*Model
	for _, e := range list {
		rest, ok := strings.CutPrefix(e.Name(), "models--")
		org, name, two := strings.Cut(rest, "--")
		if !ok || !two || !safeRepo(org) || !safeRepo(name) {
			continue
		}
		m, err := h.model(org + "/" + name)
		if err != nil {
			return nil, err
		}
		if len(m.Snapshots) > 0 || m.Bytes > 0 {
			out = append(out, m)
		}
	}
	return out, nil
}

func (h *Hub) model(repo string) (*Model, error) {
	m := &Model{Repo: repo, dir: filepath.Join(h.Cache, Name{Repo: repo}.folder())}
	commits, err := os.ReadDir(filepath.Join(m.dir, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("hub: %w", err)
	}
	for _, c := range commits {
		if !commitOK.MatchString(c.Name()) {
			continue
		}
		s, err := snapshot(m.dir, repo, c.Name())
		if err != nil {
			return nil, fmt.Errorf("hub: %w", err)
		}
		if s.has(configFile) {
			m.Snapshots = append(m.Snapshots, s)
		}
	}
	m.Bytes = diskUse(m.dir)
	return m, nil
}

// diskUse is what the files below dir take, links not followed.
func diskUse(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				bytes += onDisk(info)
			}
		}
		return nil
	})
	return bytes
}

// Removal is what removing a model would do.
type Removal struct {
	Name      Name
	Snapshots []*Snapshot
	Bytes     int64 // that become free
	All       bool  // nothing of the repository stays

	h     *Hub
	dir   string
	blobs []string // that nothing else uses
}

// Removal plans to remove one revision, or with all everything of the repository: nothing is removed yet.
func (h *Hub) Removal(n Name, all bool) (*Removal, error) {
	if h.Cache == "" {
		return nil, errNoCache
	}
	r := &Removal{Name: n, All: all, h: h, dir: filepath.Join(h.Cache, n.folder())}
	m, err := h.model(n.Repo)
	if err != nil {
		return nil, err
	}
	if !all {
		s, err := h.Snapshot(n)
		if err != nil {
			return nil, err
		}
		r.Snapshots = []*Snapshot{s}
		others, err := os.ReadDir(filepath.Join(r.dir, "snapshots"))
		if err != nil {
			return nil, fmt.Errorf("hub: %w", err)
		}
		r.All = len(others) == 1
	} else if r.Snapshots = m.Snapshots; m.Bytes == 0 && len(m.Snapshots) == 0 {
		return nil, absent{n}
	}
	if r.All {
		r.Bytes = m.Bytes
		r.blobs, err = names(filepath.Join(r.dir, "blobs"))
		return r, err
	}
	kept := map[string]bool{}
	commits, err := names(filepath.Join(r.dir, "snapshots"))
	if err != nil {
		return nil, err
	}
	mine := map[string]bool{}
	for _, c := range commits {
		for _, blob := range blobsOf(filepath.Join(r.dir, "snapshots", c)) {
			if c == r.Snapshots[0].Commit {
				mine[blob] = true
			} else {
				kept[blob] = true
			}
		}
	}
	r.Bytes = diskUse(r.Snapshots[0].Dir)
	for blob := range mine {
		if info, err := os.Lstat(filepath.Join(r.dir, "blobs", blob)); err == nil && !kept[blob] {
			r.blobs, r.Bytes = append(r.blobs, blob), r.Bytes+onDisk(info)
		}
	}
	return r, nil
}

func names(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("hub: %w", err)
	}
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = e.Name()
	}
	return out, nil
}

// blobsOf are the blobs that the links of a snapshot point to, at any depth.
func blobsOf(dir string) (out []string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeSymlink != 0 {
			if to, err := os.Readlink(path); err == nil {
				out = append(out, filepath.Base(to))
			}
		}
		return nil
	})
	return out
}

// Run removes what was planned. A file that another process is pulling at this moment is an error, before anything is removed.
func (r *Removal) Run() error {
	for _, blob := range r.blobs {
		hash, _, _ := strings.Cut(blob, ".") // unfinished ones have the lock of what they become
		f, ok, err := r.h.lock(r.Name, hash)
		if err != nil {
			return fmt.Errorf("hub: %w", err)
		}
		if !ok {
			return fmt.Errorf("%s is being pulled by another process: nothing was removed", r.Name)
		}
		defer f.Close()
	}
	var errs []error
	if r.All {
		errs = append(errs, os.RemoveAll(r.dir), os.RemoveAll(filepath.Join(r.h.Cache, ".locks", r.Name.folder())))
		return errors.Join(errs...)
	}
	s := r.Snapshots[0]
	for _, ref := range s.Refs { // first: a name must not lead to half a model
		errs = append(errs, os.Remove(filepath.Join(r.dir, "refs", filepath.FromSlash(ref))))
	}
	errs = append(errs, os.RemoveAll(s.Dir), os.RemoveAll(filepath.Join(r.dir, ".no_exist", s.Commit)))
	for _, blob := range r.blobs {
		errs = append(errs, os.Remove(filepath.Join(r.dir, "blobs", blob)))
	}
	return errors.Join(errs...)
}

// lock takes the lock of a blob that Hugging Face's libraries take too; false: someone else has it. Closing the file gives it back.
func (h *Hub) lock(n Name, hash string) (*os.File, bool, error) {
	dir := filepath.Join(h.Cache, ".locks", n.folder())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, false, err
	}
	name := filepath.Join(dir, hash+".lock")
	for range 100 {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o664)
		if err != nil {
			return nil, false, err
		}
		ok, err := tryLock(f)
		if !ok || err != nil {
			f.Close()
			return nil, false, err
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(name)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, true, nil
		}
		f.Close() // whoever had it removed the file: a lock on that keeps nobody out
		time.Sleep(time.Millisecond)
	}
	return nil, false, fmt.Errorf("%s: removed by others again and again", name)
}
