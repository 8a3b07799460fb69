package main

import (
	"net"
	"os"
	"testing"
)

func TestPageAddress(t *testing.T) {
	here, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	got := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
	for configured, want := range map[string]string{
		"localhost:0": "localhost:8080", "[::1]:8080": "[::1]:8080", "node.example:0": "node.example:8080",
		"0.0.0.0:8443": here + ":8080", "[::]:0": here + ":8080", ":0": here + ":8080",
	} {
		if address := pageAddress(configured, got); address != want {
			t.Errorf("%s: %s, want %s", configured, address, want)
		}
	}
}
