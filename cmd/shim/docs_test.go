package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestDocsNameCommands: every command and flag that the pages tell people to
// type is there.
func TestDocsNameCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range typed(string(text)) {
			commands++
			c := root()
			c.InitDefaultCompletionCmd()
			if wrong := checkCommand(c, strings.Fields(line)[1:]); wrong != "" {
				t.Errorf("%s: %q: %s", filepath.Base(page), line, wrong)
			}
		}
	}
	if commands < 100 {
		t.Errorf("only %d commands found: are they still written as `stagelet …`?", commands)
	}
}

// typed gives the commands of a page: in `code`, and in blocks of it.
func typed(page string) (lines []string) {
	page = strings.ReplaceAll(page, "\\\n", " ")
	inBlock := false
	code := regexp.MustCompile("`(stagelet [^`]+)`")
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			inBlock = !inBlock
			continue
		}
		if !inBlock {
			for _, found := range code.FindAllStringSubmatch(line, -1) {
				lines = append(lines, found[1])
			}
			continue
		}
		if _, command, found := strings.Cut("$ "+strings.TrimPrefix(line, "$ "), "$ stagelet "); found {
			lines = append(lines, "stagelet "+command)
		}
	}
	return lines
}

// checkCommand says what is wrong with a command line; "" for nothing. What is
// behind a pipe, a comment or "--" isn't for us.
func checkCommand(c *cobra.Command, words []string) string {
	for i, word := range words {
		if strings.HasPrefix(word, "#") || strings.HasPrefix(word, "$(") || strings.Contains("| && > < & ; -- 2> …", word) {
			words = words[:i]
			break
		}
	}
	if len(words) > 0 && words[0] == "help" {
		words = words[1:]
	}
	found, _, err := c.Find(words)
	if err != nil {
		return err.Error()
	}
	if found == c && len(words) > 0 && !strings.HasPrefix(words[0], "-") && !strings.HasPrefix(words[0], "[") {
		return "no such command"
	}
	for _, word := range words {
		name, isFlag := strings.CutPrefix(strings.Trim(word, "[]();,."), "--")
		name, _, _ = strings.Cut(name, "=")
		if !isFlag || strings.Trim(name, "-") == "" || name == "help" {
			continue
		}
		if found.Flag(name) == nil && found.InheritedFlags().Lookup(name) == nil {
			return "no flag --" + name
		}
	}
	return ""
}
