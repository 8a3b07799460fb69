package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/vishvananda/netlink"
)

// maxBridgeName leaves room for the suffix of suffixed in the 15 bytes of an
// interface name.
const maxBridgeName = 9

// builtin is the network that pods get where nobody configured one.
type builtin struct {
	bridge string
	cidrs  []string
	// portless is the configuration of a pod that wants no port of the host:
	// the one of config.list, less the plugin that maps them.
	portless *libcni.NetworkConfigList
}

// addBuiltin puts the built-in network into next, when it was asked for. The
// caller holds c.mu.
func (c *configs) addBuiltin(next *config) {
	if c.opts.Default != DefaultBridge {
		return
	}
	b, err := c.chooseBuiltin()
	if err == nil {
		next.builtin = b
		next.list, err = b.list(c.opts.CacheDir, portmap())
	}
	if err == nil {
		b.portless, err = b.list(c.opts.CacheDir)
	}
	if err != nil {
		next.list, next.builtin, next.problem = nil, nil, fmt.Sprintf("no built-in bridge network: %v", err)
	}
}

// chooseBuiltin: ranges that kubelet gave have a bridge of their own, since a
// bridge keeps the gateway address of the pods that are on it already.
func (c *configs) chooseBuiltin() (*builtin, error) {
	if len(c.podCIDR) > 0 {
		return &builtin{bridge: suffixed(c.opts.Bridge.Name, c.podCIDR), cidrs: c.podCIDR}, nil
	}
	if cidrs, err := parseCIDRs(c.opts.Bridge.CIDR); err != nil || len(cidrs) > 0 {
		return &builtin{bridge: c.opts.Bridge.Name, cidrs: cidrs}, err
	}
	if c.chosen == "" {
		cidr, err := freeRange(c.opts.Bridge.Name)
		if err != nil {
			return nil, err
		}
		c.chosen = cidr
	}
	return &builtin{bridge: c.opts.Bridge.Name, cidrs: []string{c.chosen}}, nil
}

func suffixed(name string, cidrs []string) string {
	sum := crc32.ChecksumIEEE([]byte(strings.Join(cidrs, ",")))
	return fmt.Sprintf("%s-%05x", name, sum&0xfffff)
}

func validInterface(name string) bool { return utils.ValidateInterfaceName(name) == nil }

// candidates are private ranges that other software seldom takes by itself.
func candidates() []string {
	return []string{"10.86.0.0/16", "10.87.0.0/16", "10.187.0.0/16", "172.29.0.0/16", "192.168.176.0/20"}
}

// freeRange picks a range that the host has no route into. A bridge of that
// name that is there already keeps the range it has.
func freeRange(bridge string) (string, error) {
	if link, err := netlink.LinkByName(bridge); err == nil {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err == nil && len(addrs) > 0 {
			return prefixOf(addrs[0].IPNet).Masked().String(), nil
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("read routes: %w", err)
	}
	for _, cidr := range candidates() {
		if !overlaps(netip.MustParsePrefix(cidr), routes) {
			return cidr, nil
		}
	}
	return "", errors.New("the host has routes into every range that pods could have by default; set a pod CIDR")
}

func overlaps(p netip.Prefix, routes []netlink.Route) bool {
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if dst := prefixOf(r.Dst); dst.Bits() > 0 && dst.Overlaps(p) {
			return true
		}
	}
	return false
}

func prefixOf(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// listFor gives the configuration to add p with.
func (c *config) listFor(p Pod) *libcni.NetworkConfigList {
	if c.builtin != nil && len(portMappings(p.Ports)) == 0 {
		return c.builtin.portless
	}
	return c.list
}

type object = map[string]any

func portmap() object {
	return object{"type": "portmap", "capabilities": object{"portMappings": true}}
}

// list writes the built-in network as a CNI configuration with more plugins
// after the bridge. It does not ask the bridge plugin to masquerade: see
// masquerade.
func (b *builtin) list(cacheDir string, more ...object) (*libcni.NetworkConfigList, error) {
	var ranges [][]object
	var routes []object
	for _, cidr := range b.cidrs {
		ranges = append(ranges, []object{{"subnet": cidr}})
		everywhere := "0.0.0.0/0"
		if isV6(cidr) {
			everywhere = "::/0"
		}
		routes = append(routes, object{"dst": everywhere})
	}
	data, err := json.Marshal(object{
		"cniVersion": "1.0.0",
		"name":       b.bridge,
		"plugins": append([]object{{
			"type": "bridge", "bridge": b.bridge, "isGateway": true, "hairpinMode": true,
			"ipam": object{
				"type": "host-local", "ranges": ranges, "routes": routes,
				"dataDir": filepath.Join(cacheDir, "host-local"),
			},
		}}, more...),
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(data)
}

func isV6(cidr string) bool { return strings.Contains(cidr, ":") }
