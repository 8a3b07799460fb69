package cri

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

var sysctlForm = regexp.MustCompile(`^[a-z0-9](?:[-_a-z0-9]*[a-z0-9])?(?:[./][a-z0-9](?:[-_a-z0-9]*[a-z0-9])?)*$`)

// Sysctls admits the sysctls of namespaces that the pod has to
// itself: any other would change the host.
func Sysctls(field string, sysctls map[string]string, ns manifest.Namespaces) (map[string]string, error) {
	if len(sysctls) == 0 {
		return nil, nil
	}
	admitted := make(map[string]string, len(sysctls))
	for _, given := range slices.Sorted(maps.Keys(sysctls)) {
		if !sysctlForm.MatchString(given) {
			return nil, invalid(field, "%.120q is no name of a sysctl", given)
		}
		name := dotted(given)
		namespace, mode := sysctlNamespace(name, ns)
		switch {
		case namespace == "":
			return nil, invalid(field, "%s belongs to no namespace of a pod", name)
		case mode == manifest.NamespaceHost:
			return nil, invalid(field, "%s would change the host: the pod uses its %s namespace", name, namespace)
		}
		if err := checkText(field+"."+name, sysctls[given]); err != nil {
			return nil, err
		}
		admitted[name] = sysctls[given]
	}
	return admitted, nil
}

// dotted gives the form with dots of a name written with slashes, where the
// two change places (sysctl(8)).
func dotted(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, name)
}

// sysctlNamespace says which namespace a sysctl belongs to
// (network_namespaces(7), ipc_namespaces(7), uts_namespaces(7)), and whose that
// is.
func sysctlNamespace(name string, ns manifest.Namespaces) (namespace string, mode manifest.NamespaceMode) {
	switch {
	case strings.HasPrefix(name, "net."):
		return "network", ns.Network
	case strings.HasPrefix(name, "fs.mqueue."):
		return "IPC", ns.IPC
	}
	switch name {
	case "kernel.sem", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.msg_next_id",
		"kernel.sem_next_id", "kernel.shm_next_id", "kernel.shmall", "kernel.shmmax",
		"kernel.shmmni", "kernel.shm_rmid_forced":
		return "IPC", ns.IPC
	case "kernel.hostname", "kernel.domainname":
		return "UTS", ns.Network // UTS follows the network
	}
	return "", ""
}
