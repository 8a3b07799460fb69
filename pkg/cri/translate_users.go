package cri

import (
	"math"
	"reflect"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// translateUsers gives nil for the host's user namespace, which it is when
// nothing is said, too: a kubelet that knows of others always says.
func translateUsers(field string, u *runtimeapi.UserNamespace) (*manifest.UserNamespace, error) {
	if u == nil {
		return nil, nil
	}
	switch u.GetMode() {
	case runtimeapi.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return nil, invalid(field, "the host's user namespace takes no mappings")
		}
		return nil, nil
	case runtimeapi.NamespaceMode_POD:
		uids, err := translateIDs(field+".uids", u.GetUids())
		if err != nil {
			return nil, err
		}
		gids, err := translateIDs(field+".gids", u.GetGids())
		if err != nil {
			return nil, err
		}
		return &manifest.UserNamespace{UIDs: uids, GIDs: gids}, nil
	case runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_TARGET:
	}
	return nil, invalid(field+".mode", "can't be %s", u.GetMode())
}

// translateIDs wants what kubelet gives: one range, and root in it, who is not
// the host's.
func translateIDs(field string, given []*runtimeapi.IDMapping) ([]manifest.IDMapping, error) {
	if len(given) != 1 {
		return nil, invalid(field, "there must be one mapping, not %d", len(given))
	}
	m := manifest.IDMapping{HostID: given[0].GetHostId(), ContainerID: given[0].GetContainerId(), Length: given[0].GetLength()}
	switch {
	case m.ContainerID != 0:
		return nil, invalid(at(field, 0)+".container_id", "is %d: the mapping must begin with 0", m.ContainerID)
	case m.HostID == 0:
		return nil, invalid(at(field, 0)+".host_id", "is 0: root of the host would be root in the container")
	case m.Length == 0:
		return nil, invalid(at(field, 0)+".length", "is 0")
	case m.Length > math.MaxUint32-m.HostID: // the last id means "none" to the kernel
		return nil, invalid(at(field, 0), "%d ids from %d on are more than there are", m.Length, m.HostID)
	}
	return []manifest.IDMapping{m}, nil
}

// appUsers checks that a container asks for no other user namespace than its
// sandbox has.
func appUsers(field string, u *runtimeapi.UserNamespace, of *manifest.UserNamespace) error {
	if u == nil {
		return nil
	}
	users, err := translateUsers(field, u)
	switch {
	case err != nil:
		return err
	case !reflect.DeepEqual(users, of):
		return invalid(field, "is not the user namespace that the sandbox was made with")
	}
	return nil
}

// mountIDs checks the mappings of a mount: its files can belong to the pod's
// users, or to the host's.
func mountIDs(field string, m *runtimeapi.Mount, of *manifest.UserNamespace) (uids, gids []manifest.IDMapping, err error) {
	if len(m.GetUidMappings())+len(m.GetGidMappings()) == 0 {
		return nil, nil, nil
	}
	if of == nil {
		return nil, nil, invalid(field+".uidMappings", "the sandbox has no user namespace")
	}
	if uids, err = translateIDs(field+".uidMappings", m.GetUidMappings()); err != nil {
		return nil, nil, err
	}
	if gids, err = translateIDs(field+".gidMappings", m.GetGidMappings()); err != nil {
		return nil, nil, err
	}
	if !slices.Equal(uids, of.UIDs) || !slices.Equal(gids, of.GIDs) {
		return nil, nil, invalid(field+".uidMappings", "are not those of the sandbox's user namespace")
	}
	return uids, gids, nil
}

// criUsers is the way back.
func criUsers(u *manifest.UserNamespace) *runtimeapi.UserNamespace {
	if u == nil {
		return nil
	}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: criIDs(u.UIDs), Gids: criIDs(u.GIDs)}
}

func criIDs(maps []manifest.IDMapping) []*runtimeapi.IDMapping {
	var list []*runtimeapi.IDMapping
	for _, m := range maps {
		list = append(list, &runtimeapi.IDMapping{HostId: m.HostID, ContainerId: m.ContainerID, Length: m.Length})
	}
	return list
}
