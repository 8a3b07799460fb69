package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/pkg/image/store"
)

func TestBars(t *testing.T) {
	at := func(layer int, state store.LayerState, done int64) store.Progress {
		return store.Progress{Layer: layer, Layers: 2, Digest: digest.FromString("x"), State: state, Done: done, Total: 100e6}
	}
	steps := []store.Progress{
		at(0, store.LayerWaiting, 0), at(1, store.LayerWaiting, 0), at(0, store.LayerFetching, 50e6),
		at(1, store.LayerThere, 100e6), at(0, store.LayerDone, 100e6),
	}
	t.Run("elsewhere", func(t *testing.T) {
		var out bytes.Buffer
		b := newBars(&out, "busybox:latest")
		for _, p := range steps {
			b.layer(p)
		}
		b.end()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "layer 2/2") || !strings.HasSuffix(lines[0], "there already") ||
			!strings.Contains(lines[1], "layer 1/2") || !strings.Contains(lines[1], "100.0 MB in ") || strings.Contains(out.String(), "\x1b") {
			t.Errorf("%q", lines)
		}
	})
	t.Run("on a terminal", func(t *testing.T) {
		var out bytes.Buffer
		b := newBars(&out, "busybox:latest")
		b.terminal = true
		for _, p := range steps[:3] {
			b.layer(p)
		}
		if text := out.String(); !strings.Contains(text, "[===============               ] 50.0 MB of 100.0 MB") {
			t.Errorf("%q", text)
		}
		b.end()
		if !strings.HasSuffix(out.String(), "\x1b[2A\x1b[J") {
			t.Errorf("it leaves lines: %q", out.String())
		}
	})
	t.Run("of many layers", func(t *testing.T) {
		var out bytes.Buffer
		b := newBars(&out, "x")
		b.terminal = true
		b.layer(store.Progress{Layers: maxBars + 1, State: store.LayerFetching, Done: 1e6, Total: 2e6})
		if n := strings.Count(out.String(), "\n"); n != 1 {
			t.Errorf("%d lines", n)
		}
	})
}

func TestInsecureOptions(t *testing.T) {
	off, err := parseInsecure([]string{"tls", "image"})
	if err != nil || !off.tls || !off.image || off.http || strings.Join(off.list(), " ") != "image tls" {
		t.Errorf("%+v, %v", off, err)
	}
	if _, err := parseInsecure([]string{"all"}); err == nil {
		t.Error("an unknown option is taken")
	}
}
