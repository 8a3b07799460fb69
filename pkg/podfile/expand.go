package podfile

import (
	"fmt"
	"strings"
)

// expander replaces $(NAME) by the value of a variable, as kubelet does: $$ is
// a dollar, and what names no variable stays as it stands. Variables may hold
// variables, so that a few lines could stand for gigabytes: all texts together
// have maxExpanded bytes at most.
type expander struct {
	vars map[string]string // of the container
	used int
}

// maxExpanded bounds what becomes of the texts of a file, in bytes: the kernel
// takes no more for one program (execve(2)).
const maxExpanded = 2 << 20

func (x *expander) expand(text string) (string, error) {
	var b strings.Builder
	write := func(part string) {
		if x.used += len(part); x.used <= maxExpanded {
			b.WriteString(part)
		}
	}
	for x.used <= maxExpanded {
		before, after, found := strings.Cut(text, "$")
		write(before)
		if !found {
			break
		}
		if strings.HasPrefix(after, "$") {
			write("$")
			text = after[1:]
			continue
		}
		name, rest, closed := strings.Cut(strings.TrimPrefix(after, "("), ")")
		if !closed || !strings.HasPrefix(after, "(") {
			write("$")
			text = after
			continue
		}
		value, known := x.vars[name]
		if !known {
			value = "$(" + name + ")"
		}
		write(value)
		text = rest
	}
	return b.String(), x.check()
}

// literal counts a text that is not to be expanded.
func (x *expander) literal(text string) (string, error) {
	x.used += len(text)
	return text, x.check()
}

func (x *expander) check() error {
	if x.used > maxExpanded {
		return fmt.Errorf("with their variables filled in, the texts of the file are longer than %d bytes", maxExpanded)
	}
	return nil
}

func (x *expander) expandAll(texts []string) (all []string, err error) {
	for _, text := range texts {
		expanded, err := x.expand(text)
		if err != nil {
			return nil, err
		}
		all = append(all, expanded)
	}
	return all, nil
}
