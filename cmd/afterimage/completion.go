package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) Help() string {
	return `Examples:
  source <(afterimage completion bash)
  afterimage completion zsh > "${fpath[1]}/_afterimage"
  afterimage completion fish > ~/.config/fish/completions/afterimage.fish`
}

func (c *completionCmd) Run(a *app, k *kong.Kong) error {
	verbs := completions(k.Model.Node, "", nil)
	switch c.Shell {
	case "bash":
		writeBash(a.out, verbs)
	case "zsh":
		writeZsh(a.out, verbs)
	case "fish":
		writeFish(a.out, verbs)
	}
	return nil
}

// completion is one command path with what may follow it.
type completion struct {
	path  string // "" for the program itself, then "bench", "bench sim"
	words []word // verbs and flags
}

type word struct{ text, help string }

func completions(n *kong.Node, path string, inherited []word) []completion {
	flags := slices.Clone(inherited)
	for _, f := range n.Flags {
		if !f.Hidden {
			flags = append(flags, word{"--" + f.Name, firstSentence(f.Help)})
		}
	}
	own := completion{path: path}
	var below []completion
	for _, child := range n.Children {
		if child.Type == kong.CommandNode && !child.Hidden {
			own.words = append(own.words, word{child.Name, firstSentence(child.Help)})
			below = append(below, completions(child, strings.TrimSpace(path+" "+child.Name), flags)...)
		}
	}
	for _, p := range n.Positional {
		for _, v := range p.EnumSlice() {
			if p.Enum != "" {
				own.words = append(own.words, word{v, ""})
			}
		}
	}
	own.words = append(own.words, flags...)
	return append([]completion{own}, below...)
}

func firstSentence(help string) string {
	s, _, _ := strings.Cut(help, ". ")
	return strings.NewReplacer("'", "’", `"`, "”", "\n", " ", "[", "(", "]", ")", ":", ",").Replace(strings.TrimSuffix(s, "."))
}

func writeBash(w io.Writer, verbs []completion) {
	fmt.Fprint(w, `_afterimage() {
  local cur=${COMP_WORDS[COMP_CWORD]} path= words i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path ${COMP_WORDS[i]}" in
`)
	for _, v := range verbs[1:] {
		fmt.Fprintf(w, "    %q) path=%q ;;\n", " "+v.path, " "+v.path)
	}
	fmt.Fprint(w, "    esac\n  done\n  case \"$path\" in\n")
	for _, v := range verbs {
		path := ""
		if v.path != "" {
			path = " " + v.path
		}
		texts := make([]string, len(v.words))
		for i, x := range v.words {
			texts[i] = x.text
		}
		fmt.Fprintf(w, "  %q) words=%q ;;\n", path, strings.Join(texts, " "))
	}
	fmt.Fprint(w, `  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ $cur != -* ]]; then COMPREPLY+=($(compgen -f -- "$cur")); fi
}
complete -o filenames -F _afterimage afterimage
`)
}

func writeZsh(w io.Writer, verbs []completion) {
	fmt.Fprint(w, "#compdef afterimage\n_afterimage() {\n  local path= i\n  local -a list\n  for ((i = 2; i < CURRENT; i++)); do\n    case \"$path ${words[i]}\" in\n")
	for _, v := range verbs[1:] {
		fmt.Fprintf(w, "    %q) path=%q ;;\n", " "+v.path, " "+v.path)
	}
	fmt.Fprint(w, "    esac\n  done\n  case \"$path\" in\n")
	for _, v := range verbs {
		path := ""
		if v.path != "" {
			path = " " + v.path
		}
		fmt.Fprintf(w, "  %q) list=(", path)
		for _, x := range v.words {
			fmt.Fprintf(w, " '%s:%s'", x.text, x.help)
		}
		fmt.Fprint(w, " ) ;;\n")
	}
	fmt.Fprint(w, "  esac\n  _describe 'afterimage' list\n  _files\n}\nif [ \"$funcstack[1]\" = \"_afterimage\" ]; then _afterimage \"$@\"; else compdef _afterimage afterimage; fi\n")
}

func writeFish(w io.Writer, verbs []completion) {
	names := make([]string, 0, len(verbs))
	for _, x := range verbs[0].words {
		if !strings.HasPrefix(x.text, "-") {
			names = append(names, x.text)
		}
	}
	for _, v := range verbs {
		condition := "__fish_use_subcommand"
		if v.path != "" {
			parts := strings.Fields(v.path)
			for i, p := range parts {
				parts[i] = "__fish_seen_subcommand_from " + p
			}
			condition = strings.Join(parts, "; and ")
		}
		for _, x := range v.words {
			if flag, ok := strings.CutPrefix(x.text, "--"); ok {
				fmt.Fprintf(w, "complete -c afterimage -n '%s' -l %s -d '%s'\n", condition, flag, x.help)
			} else {
				fmt.Fprintf(w, "complete -c afterimage -n '%s; and not __fish_seen_subcommand_from %s' -a %s -d '%s'\n",
					condition, fishSiblings(v, names), x.text, x.help)
			}
		}
	}
}

// fishSiblings are the words after which a word of v is no longer expected.
func fishSiblings(v completion, top []string) string {
	if v.path == "" {
		return strings.Join(top, " ")
	}
	var out []string
	for _, x := range v.words {
		if !strings.HasPrefix(x.text, "-") {
			out = append(out, x.text)
		}
	}
	return strings.Join(out, " ")
}
