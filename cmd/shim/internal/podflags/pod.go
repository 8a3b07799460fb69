package podflags

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Pod is what the command line says of the pod as a whole.
type Pod struct {
	Name         string
	Stage1       string // runtime handler
	PrivateUsers string // see users.go; "" is none

	net                           string
	ports                         []string
	dns, dnsSearch, dnsOpt, hosts []string
	hostname                      string
	annotations, labels           []string
}

// The networks that are always there.
const (
	netHost    = "host"
	netDefault = "default"
	netNone    = "none"
)

func (p *Pod) register(set *pflag.FlagSet) {
	set.StringVar(&p.Name, "pod-name", "", "name of the pod (default: its first app's)")
	set.StringVar(&p.Stage1, "stage1", "", "handler that isolates the pod, as configured (default: the default one)")
	set.StringVar(&p.Stage1, "stage1-name", "", "rkt's word for --stage1")
	set.StringVar(&p.PrivateUsers, "private-users", "", "user namespace of the pod's own: a free range of ids of the host, or FIRST[:LENGTH]")
	set.Lookup("private-users").NoOptDefVal = usersAuto

	set.StringVar(&p.net, "net", netDefault, "network: default, the name of the configured one, host, or none: loopback only")
	set.VarP(list{&p.ports, "PORT"}, "port", "p", "port of the host that leads to the pod: [IP:]HOSTPORT:PODPORT[/udp], or NAME:[IP:]HOSTPORT for a port that its image names")
	set.StringSliceVar(&p.dns, "dns", nil, "name servers; host: the host's, which is the default; none: none")
	set.StringSliceVar(&p.dnsSearch, "dns-search", nil, "domains to search")
	set.StringSliceVar(&p.dnsOpt, "dns-opt", nil, "options of resolv.conf(5)")
	set.Var(list{&p.hosts, "IP=NAME"}, "hosts-entry", "line of the pod's /etc/hosts")
	set.StringVar(&p.hostname, "hostname", "", "host name (default: the beginning of the pod's id)")
	set.Var(list{&p.annotations, "NAME=VALUE"}, "annotation", "annotation of the pod")
	set.Var(list{&p.labels, "NAME=VALUE"}, "label", "label of the pod")
	_ = set.MarkHidden("stage1-name") // defined above
}

var (
	hostnameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)
	podNameForm  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
)

// fill brings what needs no image into the pod.
func (p *Pod) fill(to *manifest.Pod, host Host) (err error) {
	if p.Stage1 != "" && !slices.Contains(host.Handlers, p.Stage1) {
		return invalid("stage1", "%.80q is not configured: there are %s", p.Stage1, handlers(host.Handlers))
	}
	to.Handler = p.Stage1
	if to.Name = p.Name; p.Name != "" && !podNameForm.MatchString(p.Name) {
		return invalid("pod-name", "%.80q has other characters than letters, digits, '.', '_' and '-', or is longer than 128", p.Name)
	}
	to.Namespaces = manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespacePod, PID: manifest.NamespacePod}
	switch p.net {
	case netHost:
		to.Namespaces.Network = manifest.NamespaceHost
	case netNone:
		to.LoopbackOnly = true
	case "", netDefault, host.Network:
	default:
		return invalid("net", "there is no network %.80q: say host, none or default%s", p.net, orNamed(host.Network))
	}
	if p.hostname != "" {
		if to.Namespaces.Network == manifest.NamespaceHost {
			return invalid("hostname", "a pod on the host's network has the host's name: leave out --hostname or --net=host")
		}
		if !hostnameForm.MatchString(p.hostname) {
			return invalid("hostname", "%.80q is no host name: letters, digits, '.', '_' and '-', at most 64", p.hostname)
		}
		to.Hostname = p.hostname
	}
	if to.DNS, err = p.resolver(); err != nil {
		return err
	}
	if to.Hosts, err = p.hostEntries(); err != nil {
		return err
	}
	if to.Annotations, err = pairs("annotation", p.annotations); err != nil {
		return err
	}
	to.Labels, err = pairs("label", p.labels)
	return err
}

func handlers(names []string) string {
	all := []string{"the default one"}
	for _, name := range names {
		if name != "" {
			all = append(all, name)
		}
	}
	return strings.Join(all, ", ")
}

func orNamed(name string) string {
	if name == "" {
		return ", which needs a CNI configuration or --network-default=bridge"
	}
	return ", which is " + name
}

// The words of --dns that are no addresses.
const (
	dnsHost = "host"
	dnsNone = "none"
)

// resolver gives nil for the host's.
func (p *Pod) resolver() (*manifest.DNS, error) {
	if len(p.dns) == 1 && p.dns[0] == dnsHost && len(p.dnsSearch)+len(p.dnsOpt) == 0 || len(p.dns)+len(p.dnsSearch)+len(p.dnsOpt) == 0 {
		return nil, nil
	}
	if len(p.dns) == 1 && p.dns[0] == dnsNone {
		return &manifest.DNS{Searches: p.dnsSearch, Options: p.dnsOpt}, nil
	}
	for _, server := range p.dns {
		if _, err := netip.ParseAddr(server); err != nil {
			return nil, invalid("dns", "%.80q is no IP address, and neither host nor none alone", server)
		}
	}
	for flag, words := range map[string][]string{"dns-search": p.dnsSearch, "dns-opt": p.dnsOpt} {
		for _, w := range words {
			if w == "" || strings.ContainsAny(w, " \t\n\r\x00") {
				return nil, invalid(flag, "%.80q is no word", w)
			}
		}
	}
	return &manifest.DNS{Servers: p.dns, Searches: p.dnsSearch, Options: p.dnsOpt}, nil
}

// hostEntries reads IP=NAME[,IP=NAME…], as rkt has it.
func (p *Pod) hostEntries() (entries []manifest.HostEntry, err error) {
	for _, flag := range p.hosts {
		for _, entry := range strings.Split(flag, ",") {
			ip, name, found := strings.Cut(entry, "=")
			if _, err := netip.ParseAddr(ip); err != nil || !found || !hostnameForm.MatchString(name) {
				return nil, invalid("hosts-entry", "%.80q is not of the form IP=NAME", entry)
			}
			entries = append(entries, manifest.HostEntry{IP: ip, Names: []string{name}})
		}
	}
	return entries, nil
}

// pairs reads NAME=VALUE; the last of a name counts.
func pairs(flag string, given []string) (map[string]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	all := map[string]string{}
	for _, g := range given {
		name, value, found := strings.Cut(g, "=")
		if !found || name == "" {
			return nil, invalid(flag, "%.80q is not of the form NAME=VALUE", g)
		}
		all[name] = value
	}
	return all, nil
}
