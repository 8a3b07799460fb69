package network

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// masqueradeAge is how long a rule that was there is taken to be there still.
const masqueradeAge = 10 * time.Second

// masqueradeTime bounds making them, and so how long others wait for it.
const masqueradeTime = 15 * time.Second

// masquerade hides the pods of the built-in network behind the host's address
// by one rule for each range, where the bridge plugin's ipMasq takes a chain
// for each pod, nine runs of iptables, and leaves the chain behind when the
// pod's namespace is gone before DEL.
type masquerade struct {
	mu   sync.Mutex
	seen map[string]time.Time // by range
}

// ensure makes the rules of b that are missing; a firewall that was reloaded
// has lost them. Being in place twice does no harm.
func (m *masquerade) ensure(ctx context.Context, b *builtin) error {
	ctx, cancel := context.WithTimeout(ctx, masqueradeTime)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cidr := range b.cidrs {
		if time.Since(m.seen[cidr]) < masqueradeAge {
			continue
		}
		if err := ensureRule(ctx, cidr); err != nil {
			return err
		}
		if m.seen == nil {
			m.seen = map[string]time.Time{}
		}
		m.seen[cidr] = time.Now()
	}
	return nil
}

// ensureRule spares broadcast and multicast among the pods, which pass here
// too where the kernel shows bridged packets to iptables (br_netfilter).
func ensureRule(ctx context.Context, cidr string) error {
	const op = "masquerade"
	program := "iptables"
	if isV6(cidr) {
		program = "ip6tables"
	}
	env := withSystemPath(nil)
	path, err := lookPath(program)
	if err != nil {
		return errs.New(op, errs.Unavailable, cidr, fmt.Errorf("%s is needed: install iptables", program))
	}
	rule := []string{
		"POSTROUTING", "-s", cidr, "!", "-d", cidr, "-m", "addrtype", "--dst-type", "UNICAST",
		"-m", "comment", "--comment", "stagelet: pods", "-j", "MASQUERADE",
	}
	var out output
	for _, verb := range []string{"-C", "-A"} {
		out, err = run(ctx, invocation{path: path, env: env, args: append([]string{"-w", "5", "-t", "nat", verb}, rule...)})
		if err == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return errs.New(op, errs.Unavailable, cidr, fmt.Errorf("%s: %w: %s", program, err, words(out.stderr, out.stdout)))
}

// lookPath finds a program as plugins would.
func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}
