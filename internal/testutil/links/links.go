// Package links removes the network interfaces of tests.
package links

import (
	"context"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Remove removes the network interfaces that have name in theirs, and the
// rules that hide the pods of their ranges behind the host's address, which the
// built-in network leaves to the host.
func Remove(name string) {
	links, _ := netlink.LinkList()
	for _, l := range links {
		if !strings.Contains(l.Attrs().Name, name) {
			continue
		}
		addrs, _ := netlink.AddrList(l, netlink.FAMILY_ALL)
		_ = netlink.LinkDel(l)
		for _, a := range addrs {
			a.IP = a.IP.Mask(a.Mask)
			removeMasquerade(a.IPNet.String())
		}
	}
}

func removeMasquerade(cidr string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program := "iptables"
	if strings.Contains(cidr, ":") {
		program = "ip6tables"
	}
	rules, _ := exec.CommandContext(ctx, program, "-w", "-t", "nat", "-S", "POSTROUTING").Output()
	for rule := range strings.Lines(string(rules)) {
		if rest, is := strings.CutPrefix(rule, "-A "); is && strings.Contains(rule, " -s "+cidr+" ") && strings.Contains(rule, "stagelet") {
			_ = exec.CommandContext(ctx, "sh", "-c", program+" -w -t nat -D "+rest).Run() // as it is quoted
		}
	}
}
