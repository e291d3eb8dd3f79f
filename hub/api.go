package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Limits on what a hub may list, far above every published model.
const (
	maxListing  = 16 << 20 // bytes of an answer of the API
	maxFiles    = 20_000
	maxPath     = 512
	maxSegments = 16
	maxSmall    = 64 << 20 // bytes of any file that is not weights
	maxFile     = 1 << 42
)

// File is one file of a repository.
type File struct {
	Name string
	Size int64
	hash string // sha256, or git's sha1 of a small file: also the blob's name; "" where the list does not say
}

// listing is a repository at a commit.
type listing struct {
	commit  string
	licence string // as the hub spells it, or ""
	files   []File
}

type rawListing struct {
	SHA      string `json:"sha"`
	Siblings []struct {
		Name   string `json:"rfilename"`
		Size   *int64 `json:"size"`
		BlobID string `json:"blobId"`
		LFS    *struct {
			SHA256 string `json:"sha256"`
			OID    string `json:"oid"`
			Size   *int64 `json:"size"`
		} `json:"lfs"`
	} `json:"siblings"`
	Tags []string `json:"tags"`
}

var (
	sha256Name  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	sha1Name    = regexp.MustCompile(`^[0-9a-f]{40}$`)
	licenceName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
)

// parseListing reads and checks the hub's answer. What a name may be is checked for every file, wanted or not: a hub that lists
// one that would leave the directory is not to be trusted with the others.
func parseListing(data []byte) (*listing, error) {
	var raw rawListing
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("the list of files is no JSON that is understood: %w", err)
	}
	if !commitOK.MatchString(raw.SHA) {
		return nil, fmt.Errorf("sha %.60q is no commit", raw.SHA)
	}
	if len(raw.Siblings) > maxFiles {
		return nil, fmt.Errorf("%d files are more than the %d that are taken", len(raw.Siblings), maxFiles)
	}
	l := &listing{commit: raw.SHA}
	seen := make(map[string]bool, len(raw.Siblings))
	for _, s := range raw.Siblings {
		if err := checkPath(s.Name); err != nil {
			return nil, err
		}
		if seen[s.Name] {
			return nil, fmt.Errorf("%q is listed twice", s.Name)
		}
		seen[s.Name] = true
		f := File{Name: s.Name, Size: -1, hash: s.BlobID}
		if s.Size != nil {
			f.Size = *s.Size
		}
		if s.LFS != nil {
			f.hash = s.LFS.SHA256
			if f.hash == "" {
				f.hash = strings.TrimPrefix(s.LFS.OID, "sha256:")
			}
			if s.LFS.Size != nil {
				f.Size = *s.LFS.Size
			}
		}
		if s.Size != nil || s.LFS != nil && s.LFS.Size != nil {
			if f.Size < 0 || f.Size > maxFile {
				return nil, fmt.Errorf("%q: size %d is out of range", s.Name, f.Size)
			}
		}
		if f.hash != "" && !sha256Name.MatchString(f.hash) && !sha1Name.MatchString(f.hash) {
			return nil, fmt.Errorf("%q: hash %.80q is neither sha256 nor sha1", s.Name, f.hash)
		}
		l.files = append(l.files, f)
	}
	for _, t := range raw.Tags {
		if name, ok := strings.CutPrefix(t, "license:"); ok && licenceName.MatchString(name) {
			l.licence = name
		}
	}
	return l, nil
}

// checkPath refuses a name that could lead out of the directory, on any system, or upset a terminal.
func checkPath(name string) error {
	bad := name == "" || len(name) > maxPath || strings.ContainsAny(name, `\:`) || strings.Count(name, "/") >= maxSegments
	for _, r := range name {
		bad = bad || r < ' ' || r == 0x7f || r == 0xfffd
	}
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == "" || part == "." || part == ".." || len(part) > 255
	}
	if bad {
		return fmt.Errorf("file name %.80q is not one that stays inside a directory; nothing was written", name)
	}
	return nil
}

func (l *listing) find(name string) (File, bool) {
	i := slices.IndexFunc(l.files, func(f File) bool { return f.Name == name })
	if i < 0 {
		return File{}, false
	}
	return l.files[i], true
}

// list asks for the files of a name.
func (h *Hub) list(ctx context.Context, n Name) (*listing, error) {
	data, err := h.ask(ctx, n, "/api/models/"+n.Repo+"/revision/"+url.PathEscape(n.Revision)+"?blobs=true")
	if err != nil {
		return nil, err
	}
	l, err := parseListing(data)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", n.Repo, h.endpoint.Host, err)
	}
	if commitOK.MatchString(n.Revision) && l.commit != n.Revision {
		return nil, fmt.Errorf("%s of %s: asked for commit %s and got %s", n.Repo, h.endpoint.Host, n.Revision, l.commit)
	}
	return l, nil
}

const (
	convertBot = "SFconvertbot" // opens pull requests that hold a model as safetensors
	maxLooked  = 8              // pull requests that are looked into
)

// converted looks for pull requests that hold safetensors, those that the hub's own converter made first. Failures count as none found:
// this is for the text of an error.
func (h *Hub) converted(ctx context.Context, n Name) (revision string, byBot bool) {
	var talks struct {
		Discussions []struct {
			Num    int `json:"num"`
			Author struct {
				Name string `json:"name"`
			} `json:"author"`
		} `json:"discussions"`
	}
	var bot, all []string
	if data, err := h.ask(ctx, n, "/api/models/"+n.Repo+"/discussions?type=pull_request&author="+convertBot); err == nil && json.Unmarshal(data, &talks) == nil {
		for _, t := range talks.Discussions {
			if t.Author.Name == convertBot && t.Num > 0 {
				bot = append(bot, "refs/pr/"+strconv.Itoa(t.Num))
			}
		}
	}
	var refs struct {
		PullRequests []struct {
			Ref string `json:"ref"`
		} `json:"pullRequests"`
	}
	if data, err := h.ask(ctx, n, "/api/models/"+n.Repo+"/refs?include_prs=1"); err == nil && json.Unmarshal(data, &refs) == nil {
		for _, r := range refs.PullRequests {
			if strings.HasPrefix(r.Ref, "refs/pr/") && safeRevision(r.Ref) && !slices.Contains(bot, r.Ref) {
				all = append(all, r.Ref)
			}
		}
	}
	for i, ref := range append(bot, all...) {
		if i >= maxLooked {
			break
		}
		l, err := h.list(ctx, Name{Repo: n.Repo, Revision: ref})
		if err == nil && hasWeights(l) {
			return ref, i < len(bot)
		}
	}
	return "", false
}

func hasWeights(l *listing) bool {
	return slices.ContainsFunc(l.files, func(f File) bool { return f.Name == singleFile || f.Name == indexFile })
}

// errNoWeights says why a repository cannot be used, and where it could be.
func (h *Hub) errNoWeights(ctx context.Context, n Name, l *listing) error {
	var pickles []string
	for _, f := range l.files {
		for _, ext := range []string{".bin", ".pth", ".pt", ".ckpt", ".pkl"} {
			if strings.HasSuffix(f.Name, ext) {
				pickles = append(pickles, f.Name)
			}
		}
	}
	if len(pickles) == 0 {
		return fmt.Errorf("%s has neither %s nor %s at its top: it is no model that this program reads", n, singleFile, indexFile)
	}
	msg := fmt.Sprintf("%s has its weights as Python pickles only (%s), which run code when they are read, so they are not", n, pickles[0])
	ref, bot := h.converted(ctx, n)
	switch {
	case bot:
		return fmt.Errorf("%s; the hub's converter has put safetensors on %s: afterimage pull %s@%s", msg, ref, n.Repo, ref)
	case ref != "":
		return fmt.Errorf("%s; pull request %s has safetensors (look at who made it): afterimage pull %s@%s", msg, ref, n.Repo, ref)
	}
	return errors.New(msg + "; no pull request with safetensors was found")
}
