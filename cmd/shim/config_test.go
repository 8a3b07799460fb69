package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/internal/errs"
)

// configured gives the configuration of a command line.
func configured(t *testing.T, args ...string) (*config, error) {
	t.Helper()
	s := &settings{}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s.register(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return s.config()
}

// configFile writes a configuration, and gives the flag that names it.
func configFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--config=" + path
}

// documented is a row of the table in docs/configuration.md.
type documented struct{ key, flag string }

func documentedKeys(t *testing.T) (rows []documented) {
	t.Helper()
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	flag := regexp.MustCompile("\\(.*`--([a-z0-9-]+)`.*\\) \\|$")
	for line := range strings.Lines(string(data)) {
		key, found := strings.CutPrefix(line, "| `")
		if !found {
			continue
		}
		key, _, _ = strings.Cut(key, "`")
		row := documented{key: key}
		if m := flag.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			row.flag = m[1]
		}
		rows = append(rows, row)
	}
	return rows
}

// field gives the value of a key ("trust.dirs") in a configuration.
func field(t *testing.T, c *config, key string) reflect.Value {
	t.Helper()
	v := reflect.ValueOf(c).Elem()
	for _, name := range strings.Split(key, ".") {
		found := false
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") == name {
				v, found = v.Field(i), true
				break
			}
		}
		if !found {
			t.Fatalf("docs/configuration.md has the key %s, the program hasn't", key)
		}
	}
	return v
}

// setting gives a file that sets a key.
func setting(key, value string) string {
	section, name, nested := strings.Cut(key, ".")
	if !nested {
		return key + ": " + value
	}
	return section + ": {" + name + ": " + value + "}"
}

// TestFlagsAreStrongerThanTheFile: each key that the documentation gives a
// flag is set by the file, and by the flag over it.
func TestFlagsAreStrongerThanTheFile(t *testing.T) {
	rows := documentedKeys(t)
	if most := 25; len(rows) < 10 || len(rows) > most {
		t.Errorf("%d keys are documented, at most %d are wanted", len(rows), most)
	}
	for _, row := range rows {
		if row.flag == "" {
			continue
		}
		file, flag := "/from/file", "/from/flag"
		switch row.key {
		case "network.default":
			file, flag = "none", "bridge"
		case "cgroup.driver":
			file, flag = "systemd", "cgroupfs"
		case "web.listen":
			file, flag = "127.0.0.1:1", "localhost:2"
		}
		content := setting(row.key, file)
		wantFile, wantFlag := any(file), any(flag)
		if field(t, &config{}, row.key).Kind() == reflect.Slice {
			content = setting(row.key, "["+file+"]")
			wantFile, wantFlag = []string{file}, []string{flag}
		}
		args := []string{configFile(t, content)}
		for _, want := range []any{wantFile, wantFlag} {
			c, err := configured(t, args...)
			if err != nil {
				t.Errorf("%q: %v", args, err)
			} else if got := field(t, c, row.key).Interface(); !reflect.DeepEqual(got, want) {
				t.Errorf("%q: %s is %v, want %v", args, row.key, got, want)
			}
			args = append(args, "--"+row.flag+"="+flag)
		}
	}
}

// TestEveryFlagIsDocumented, and every path can be moved by one.
func TestEveryFlagIsDocumented(t *testing.T) {
	// What several instances on one host need apart is no key of the file.
	flags := map[string]bool{"config": true, "netns-dir": true, "network-bridge": true, "cdi-dir": true}
	for _, row := range documentedKeys(t) {
		flags[row.flag] = true
		last := strings.ToLower(row.key[strings.LastIndex(row.key, ".")+1:])
		isPath := strings.HasSuffix(last, "dir") || strings.HasSuffix(last, "dirs") || strings.HasSuffix(last, "configs") || strings.HasSuffix(last, "json")
		if isPath && row.flag == "" {
			t.Errorf("%s is a path and has no flag", row.key)
		}
	}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	(&settings{}).register(set)
	set.VisitAll(func(f *pflag.Flag) {
		if !flags[f.Name] {
			t.Errorf("docs/configuration.md doesn't know --%s", f.Name)
		}
	})
}

func TestConfigurationsThatCantWork(t *testing.T) {
	for content, names := range map[string]string{
		"registry: {certDir: /x}":               "certDir",
		"registry: {certsDir: relative}":        "registry.certsDir",
		"registry: {authDirs: [/x, y]}":         "registry.authDirs",
		"registry: {dockerConfigs: [~/x]}":      "registry.dockerConfigs",
		"trust: {dirs: [x]}":                    "trust.dirs",
		"trust: {policyJSON: x}":                "trust.policyJSON",
		"trust: {registriesDir: x}":             "trust.registriesDir",
		"network: {default: host}":              "network.default",
		"cgroup: {driver: dbus}":                "cgroup.driver",
		"network: {bridge: x}":                  "bridge",
		"gc: {grace: soon}":                     "gc.grace",
		"web: {listen: \"8080\"}":               "web.listen",
		"web: {listen: \"0.0.0.0:8080\"}":       "web.certDir",
		"web: {listen: \":8080\"}":              "web.certDir",
		"web: {certDir: tls}":                   "web.certDir",
		"ulimits: {files: \"1\"}":               "ulimits",
		"ulimits: {nofile: \"2:1\"}":            "nofile",
		`handlers: {"": {runtime: /usr/bin/x}}`: "handlers",
	} {
		if _, err := configured(t, configFile(t, content)); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), names) {
			t.Errorf("%s: %v", content, err)
		}
	}
	if _, err := configured(t, "--config=/no/such/file"); !errors.Is(err, errs.NotFound) {
		t.Errorf("a file that isn't there: %v", err)
	}
}
