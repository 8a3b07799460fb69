package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/stagelet/stagelet/internal/errs"
)

func configCommand(s *settings) *cobra.Command {
	var output form
	c := &cobra.Command{
		Use:   "config",
		Short: "Show the configuration that is in force, and where it comes from",
		Long: `Show each value of the configuration as the commands with these flags see it, and
whether it is built in, or from the configuration file, or from a flag. With
-o yaml it is written as such a file, to begin one with.`,
		Example: `  stagelet config
  stagelet config -o yaml > /etc/stagelet/config.yaml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, rows, err := s.explain()
			if err != nil {
				return err
			}
			if output == formYAML || output == formJSON {
				return writeValue(c.OutOrStdout(), output, config, nil)
			}
			return writeList(c.OutOrStdout(), output, rows, configTable)
		},
	}
	outputFlag(c, &output)
	return c
}

// configRow is one value of the configuration.
type configRow struct{ key, value, from string }

// Where a value comes from, besides a file.
const (
	builtIn  = "built-in"
	fromFlag = "flag"
)

// explain gives the configuration, and each of its values with what set it. A
// flag that says what would hold without it is not told of.
func (s *settings) explain() (*config, []configRow, error) {
	config, err := s.config()
	if err != nil {
		return nil, nil, err
	}
	filed := defaults()
	if err := filed.load(s.file); err != nil {
		return nil, nil, err
	}
	inFile := map[string]any{}
	if data, err := os.ReadFile(s.file); err == nil {
		if err := yaml.Unmarshal(data, &inFile); err != nil {
			return nil, nil, errs.Wrap("read configuration", s.file, err)
		}
	}
	config.Listen, filed.Listen = config.socket(), filed.socket()
	values, before, inFile := flat(config), flat(&filed), flatMap("", inFile)
	rows := make([]configRow, 0, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		row := configRow{key, values[key], builtIn}
		if _, there := inFile[key]; there {
			row.from = s.file
		}
		if before[key] != row.value {
			row.from = fromFlag
		}
		rows = append(rows, row)
	}
	for _, r := range []configRow{
		{"netns-dir", config.Network.NetNSDir, ""}, {"network-bridge", config.Network.Bridge, ""}, {"cdi-dir", strings.Join(config.cdiDirs, " "), ""},
	} {
		r.from = builtIn
		if s.set.Changed(r.key) {
			r.from = fromFlag
		}
		rows = append(rows, configRow{"--" + r.key, r.value, r.from})
	}
	return config, rows, nil
}

// flat gives the values of c by their keys with dots between.
func flat(c *config) map[string]string {
	var tree map[string]any
	data, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(data, &tree)
	}
	if err != nil {
		panic(err) // it is data of ours
	}
	values := map[string]string{}
	for key, v := range flatMap("", tree) {
		values[key] = valueText(v)
	}
	return values
}

func flatMap(prefix string, tree map[string]any) map[string]any {
	leaves := map[string]any{}
	for key, v := range tree {
		if below, ok := v.(map[string]any); ok {
			maps.Copy(leaves, flatMap(prefix+key+".", below))
			continue
		}
		leaves[prefix+key] = v
	}
	return leaves
}

func valueText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []any:
		all := make([]string, len(v))
		for i, e := range v {
			all[i] = valueText(e)
		}
		return strings.Join(all, " ")
	}
	return fmt.Sprint(v)
}

func configTable(w io.Writer, rows []configRow) {
	fmt.Fprintln(w, "KEY\tVALUE\tFROM")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.key, dash(r.value), r.from)
	}
}
