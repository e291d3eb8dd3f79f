package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"afterimage/hub"
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
	verbs, values := completions(k.Model.Node, "", nil), flagValues(k.Model.Node, map[string][]string{})
	switch c.Shell {
	case "bash":
		writeBash(a.out, verbs, values)
	case "zsh":
		writeZsh(a.out, verbs, values)
	case "fish":
		writeFish(a.out, verbs, values)
	}
	return nil
}

// completion is one command path with what may follow it.
type completion struct {
	path  string // "" for the program itself, then "bench", "bench sim"
	words []word // verbs and flags
}

// flagValues is what a flag may be, for those flags that are one of a few, whatever verb they go with.
func flagValues(n *kong.Node, values map[string][]string) map[string][]string {
	for _, f := range n.Flags {
		switch _, memory := f.Target.Interface().(MemoryConfig); {
		case f.Hidden:
		case memory || f.Name == "strategies":
			values[f.Name] = strategyNames()
		case f.Name == modelFlag:
			values[f.Name] = shortNames()
		case f.Enum != "":
			values[f.Name] = slices.DeleteFunc(f.EnumSlice(), func(v string) bool { return v == "" })
		}
	}
	for _, child := range n.Children {
		flagValues(child, values)
	}
	return values
}

// modelFlag may be a directory, too; modelVerbs name a model as their argument.
const modelFlag = "model"

var modelVerbs = []string{"pull", "show", "rm"}

func shortNames() []string {
	names := make([]string, len(hub.Catalogue))
	for i, e := range hub.Catalogue {
		names[i] = e.Short
	}
	return names
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
	if slices.Contains(modelVerbs, path) {
		for _, e := range hub.Catalogue {
			own.words = append(own.words, word{e.Short, firstSentence(e.For)})
		}
	}
	own.words = append(own.words, flags...)
	return append([]completion{own}, below...)
}

func firstSentence(help string) string {
	s, _, _ := strings.Cut(help, ". ")
	return strings.NewReplacer("'", "’", `"`, "”", "\n", " ", "[", "(", "]", ")", ":", ",").Replace(strings.TrimSuffix(s, "."))
}

func writeBash(w io.Writer, verbs []completion, values map[string][]string) {
	fmt.Fprint(w, `_afterimage() {
  local cur=${COMP_WORDS[COMP_CWORD]} path= words i
  case ${COMP_WORDS[COMP_CWORD-1]} in
`)
	for _, flag := range slices.Sorted(maps.Keys(values)) {
		directories := ""
		if flag == modelFlag {
			directories = "-d "
		}
		fmt.Fprintf(w, "    --%s) COMPREPLY=($(compgen %s-W %q -- \"$cur\")); return ;;\n", flag, directories, strings.Join(values[flag], " "))
	}
	fmt.Fprint(w, `  esac
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

func writeZsh(w io.Writer, verbs []completion, values map[string][]string) {
	fmt.Fprint(w, "#compdef afterimage\n_afterimage() {\n  local path= i\n  local -a list\n  case ${words[CURRENT-1]} in\n")
	for _, flag := range slices.Sorted(maps.Keys(values)) {
		directories := ""
		if flag == modelFlag {
			directories = "; _files -/"
		}
		fmt.Fprintf(w, "    --%s) compadd -- %s%s; return ;;\n", flag, strings.Join(values[flag], " "), directories)
	}
	fmt.Fprint(w, "  esac\n  for ((i = 2; i < CURRENT; i++)); do\n    case \"$path ${words[i]}\" in\n")
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

func writeFish(w io.Writer, verbs []completion, values map[string][]string) {
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
				choice := ""
				if v := values[flag]; len(v) > 0 {
					choice = " -x -a '" + strings.Join(v, " ") + "'"
					if flag == modelFlag {
						choice = " -r -a '" + strings.Join(v, " ") + "'"
					}
				}
				fmt.Fprintf(w, "complete -c afterimage -n '%s' -l %s%s -d '%s'\n", condition, flag, choice, x.help)
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
