package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/commands.md")

const commandsPage = "../../docs/commands.md"

// TestCommandsPage holds docs/commands.md to what the commands say of
// themselves.
func TestCommandsPage(t *testing.T) {
	var page strings.Builder
	page.WriteString("# Commands\n\nWhat `--help` says, in one place: `go test ./cmd/shim -run CommandsPage -update` writes it.\n")
	c := root()
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	each(c, func(c *cobra.Command) {
		if c.Name() == "help" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		page.WriteString("\n## " + c.CommandPath() + "\n\n```text\n" + helpOf(t, c) + "```\n")
	})
	if *update {
		if err := os.WriteFile(commandsPage, []byte(page.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(commandsPage)
	if err != nil || string(got) != page.String() {
		t.Errorf("docs/commands.md is not what the commands say (%v): go test ./cmd/shim -run CommandsPage -update writes it", err)
	}
}

func helpOf(t *testing.T, c *cobra.Command) string {
	t.Helper()
	var text bytes.Buffer
	c.SetOut(&text)
	if err := c.Help(); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestHelp: whoever asks for help gets it, of each command.
func TestHelp(t *testing.T) {
	each(root(), func(c *cobra.Command) {
		switch {
		case c.Name() == "help", c.HasParent() && c.Parent().Name() == "completion":
		case c.Short == "", strings.HasSuffix(c.Short, "."):
			t.Errorf("%s: its line in the list is %q", c.CommandPath(), c.Short)
		case c.Long == "" && c.Runnable():
			t.Errorf("%s says nothing of itself", c.CommandPath())
		}
		for line := range strings.Lines(c.Long) {
			if len([]rune(strings.TrimRight(line, "\n"))) > helpWidth {
				t.Errorf("%s: a line of help is longer than %d characters: %q", c.CommandPath(), helpWidth, line)
			}
		}
	})
}

// TestEveryCommandHasAScript: it is typed in some script of test/cli.
func TestEveryCommandHasAScript(t *testing.T) {
	scripts, err := filepath.Glob("../../test/cli/testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	var all strings.Builder
	for _, script := range scripts {
		data, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	each(root(), func(c *cobra.Command) {
		typed := slices.ContainsFunc(append(c.Aliases, c.Name()), func(name string) bool {
			words := append(strings.Fields(c.CommandPath())[:strings.Count(c.CommandPath(), " ")], name)
			return strings.Contains(all.String(), strings.Join(words, " "))
		})
		if c.Runnable() && !typed {
			t.Errorf("no script has %s", c.CommandPath())
		}
	})
}
