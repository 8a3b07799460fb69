package podflags

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// maxEnvFile bounds a file of variables, in bytes.
const maxEnvFile = 1 << 20

// environment gives the variables that an app is given over its image's: what
// is inherited, under files, under flags; ours is the environment of the
// command.
func (a *App) environment(ours []string) ([]string, error) {
	env := inherited(ours, a.inherit)
	for _, path := range a.envFiles {
		more, err := readEnvFile(path, ours)
		if err != nil {
			return nil, err
		}
		env = append(env, more...)
	}
	for _, v := range a.env {
		pair, err := variable(v, ours)
		if err != nil {
			return nil, invalid("set-env", "%v", err)
		}
		env = append(env, pair...)
	}
	return env, nil
}

func inherited(ours, names []string) (env []string) {
	for _, pair := range ours {
		name, _, _ := strings.Cut(pair, "=")
		if name != "" && (slices.Contains(names, name) || slices.Contains(names, inheritAll)) {
			env = append(env, pair)
		}
	}
	return env
}

// variable reads NAME=VALUE, or NAME for what the command itself has, if it
// has it. No value is told in errors: values are secrets.
func variable(text string, ours []string) ([]string, error) {
	name, _, set := strings.Cut(text, "=")
	switch {
	case name == "" || strings.ContainsAny(name, " \t\x00"):
		return nil, fmt.Errorf("%.80q is no name of a variable", name)
	case strings.ContainsRune(text, 0):
		return nil, fmt.Errorf("the value of %.80q has a NUL byte", name)
	case set:
		return []string{text}, nil
	}
	return inherited(ours, []string{name}), nil
}

func readEnvFile(path string, ours []string) ([]string, error) {
	const op = "read variables"
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	defer f.Close()
	var env []string
	limited := &io.LimitedReader{R: f, N: maxEnvFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxEnvFile)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		pair, err := variable(line, ours)
		if err != nil {
			return nil, errs.New(op, errs.Invalid, fmt.Sprintf("%s, line %d", path, n), err)
		}
		env = append(env, pair...)
	}
	err = lines.Err()
	if limited.N <= 0 {
		err = errs.New("read", errs.Invalid, "", fmt.Errorf("the file is larger than %d bytes", maxEnvFile))
	}
	return env, errs.Wrap(op, path, err)
}
