package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
)

const kindPodCIDR = "pod-cidr"

// SetPodCIDR takes the range of this node's pods (CRI UpdateRuntimeConfig):
// one CIDR, or two of different families separated by a comma. It outlives
// restarts, since kubelet tells it once. Pods that run keep their addresses.
// An empty text changes nothing.
func (n *Network) SetPodCIDR(text string) error {
	const op = "set pod CIDR"
	cidrs, err := parseCIDRs(text)
	if err != nil {
		return errs.New(op, errs.Invalid, fmt.Sprintf("%.100q", text), err)
	}
	if len(cidrs) == 0 || slices.Equal(cidrs, n.configs.podCIDRs()) {
		return nil
	}
	if err := n.configs.storePodCIDR(cidrs); err != nil {
		return errs.Wrap(op, text, err)
	}
	n.configs.load()
	return nil
}

func (c *configs) storePodCIDR(cidrs []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	crash.Point("network.podcidr.write")
	err := atomicfile.WriteRecordDurable(c.podCIDRFile(), kindPodCIDR, cidrs)
	crash.Point("network.podcidr.written")
	if err == nil {
		c.podCIDR = cidrs
	}
	return err
}

func (c *configs) podCIDRs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.podCIDR
}

func (c *configs) podCIDRFile() string { return filepath.Join(c.opts.CacheDir, "podcidr.json") }

// readPodCIDR gives what was set in an earlier life. A torn record counts as
// none: kubelet then tells again when it restarts.
func (c *configs) readPodCIDR() ([]string, error) {
	var cidrs []string
	_, err := atomicfile.ReadRecord(c.podCIDRFile(), kindPodCIDR, &cidrs)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case errors.Is(err, errs.Corrupt):
		return nil, os.Remove(c.podCIDRFile())
	case err != nil:
		return nil, err
	}
	return parseCIDRs(strings.Join(cidrs, ","))
}

// parseCIDRs gives the ranges in text in canonical form: none, one, or one of
// each family.
func parseCIDRs(text string) ([]string, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var cidrs []string
	var v4, v6 int
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, errors.New("is not a CIDR such as 10.1.0.0/24, or two separated by a comma")
		}
		addr := prefix.Addr()
		if addr.Is4In6() {
			return nil, fmt.Errorf("%s is an IPv4 range written as IPv6", part)
		}
		if addr.BitLen()-prefix.Bits() < 2 {
			return nil, fmt.Errorf("%s has no room for a gateway and a pod", part)
		}
		if addr.Is4() {
			v4++
		} else {
			v6++
		}
		cidrs = append(cidrs, prefix.Masked().String())
	}
	if v4 > 1 || v6 > 1 {
		return nil, errors.New("has two ranges of one family")
	}
	return cidrs, nil
}
