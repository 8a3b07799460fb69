package stage0

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// writeEtc writes the pod's own /etc/hostname, /etc/resolv.conf and
// /etc/hosts. An app gets them where it mounts nothing there itself.
func writeEtc(dir manifest.Dir, p *manifest.Pod) error {
	resolv, err := resolvConf(p.DNS)
	if err != nil {
		return err
	}
	hosts, err := hostFile("/etc/hosts")
	if err != nil {
		return err
	}
	hosts = append(hosts, hostLines(p.Hosts)...)
	name, err := hostnameOf(p)
	if err != nil {
		return err
	}
	for file, data := range map[string][]byte{"hostname": []byte(name + "\n"), "resolv.conf": resolv, "hosts": hosts} {
		if err := os.WriteFile(filepath.Join(dir.Etc(), file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hostnameOf gives the name that apps see: the host's on the host's network.
func hostnameOf(p *manifest.Pod) (string, error) {
	if p.Namespaces.Network == manifest.NamespacePod {
		return p.Hostname, nil
	}
	return os.Hostname()
}

// resolvConf writes resolv.conf(5); nil is a copy of the host's.
func resolvConf(dns *manifest.DNS) ([]byte, error) {
	if dns == nil {
		return hostFile("/etc/resolv.conf")
	}
	var b strings.Builder
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, s := range dns.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return []byte(b.String()), nil
}

// hostLines writes lines of hosts(5).
func hostLines(entries []manifest.HostEntry) []byte {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s\t%s\n", e.IP, strings.Join(e.Names, " "))
	}
	return []byte(b.String())
}

// hostFile reads a file that the host may do without.
func hostFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}
