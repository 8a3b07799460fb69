package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestParseWanted(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"app.aci", "app.tar.gz", "plain"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("dir.tar", 0o700); err != nil {
		t.Fatal(err)
	}
	hex := strings.Repeat("ab", 32)
	for argument, want := range map[string]wanted{
		"busybox":                         {anywhere, "busybox"},
		"quay.io/team/app@sha256:" + hex:  {anywhere, "quay.io/team/app@sha256:" + hex},
		"docker://busybox":                {onlyRegistry, "busybox"},
		"oci://reg.io:5000/a:v1":          {onlyRegistry, "reg.io:5000/a:v1"},
		"appc://example.com/app":          {onlyDiscovery, "example.com/app"},
		"example.com/app:v1,os=linux":     {onlyDiscovery, "example.com/app:v1,os=linux"},
		"https://example.com/app.aci":     {atURL, "https://example.com/app.aci"},
		"http://example.com/app.aci?a=,b": {atURL, "http://example.com/app.aci?a=,b"},
		"sha256:" + hex:                   {onlyStore, "sha256:" + hex},
		"sha512-abc":                      {onlyStore, "sha512-abc"},
		"abcdef":                          {anywhere, "abcdef"},
		"./plain":                         {inFile, "./plain"},
		"/no/such":                        {inFile, "/no/such"},
		"file:///no/such":                 {inFile, "/no/such"},
		"app.aci":                         {inFile, "app.aci"},
		"app.tar.gz":                      {inFile, "app.tar.gz"},
		"plain":                           {anywhere, "plain"},
		"dir.tar":                         {anywhere, "dir.tar"},
		"other.aci":                       {anywhere, "other.aci"},
		filepath.Join("..", "app.aci"):    {inFile, "../app.aci"},
	} {
		if got, err := parseWanted(argument); err != nil || got != want {
			t.Errorf("%s: %v, %v", argument, got, err)
		}
	}
	for _, argument := range []string{"", "docker://", "ftp://example.com/app.aci", "javascript://x"} {
		if _, err := parseWanted(argument); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", argument, err)
		}
	}
}

func TestPullPolicyWords(t *testing.T) {
	for word, want := range map[string]pullPolicy{
		"never": pullNever, "missing": pullMissing, "always": pullAlways, "new": pullMissing, "update": pullAlways,
	} {
		var p pullPolicy
		if err := p.Set(word); err != nil || p != want {
			t.Errorf("%s: %s, %v", word, p, err)
		}
	}
	if err := new(pullPolicy).Set("sometimes"); err == nil {
		t.Error("taken")
	}
	f := bringFlags{storeOnly: true, noStore: true}
	if _, err := f.open(&config{}, nil, nil); !errors.Is(err, errs.Invalid) {
		t.Error(err)
	}
}
