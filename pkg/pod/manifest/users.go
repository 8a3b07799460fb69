package manifest

import (
	"fmt"

	"github.com/stagelet/stagelet/internal/errs"
)

// UserNamespace maps the pod's ids to the host's.
type UserNamespace struct {
	UIDs []IDMapping `json:"uids"`
	GIDs []IDMapping `json:"gids"`
}

// IDMapping is one line of user_namespaces(7)'s uid_map.
type IDMapping struct {
	HostID      uint32 `json:"hostID"`
	ContainerID uint32 `json:"containerID"`
	Length      uint32 `json:"length"`
}

// Host gives the host's ids for a user and a group of the pod; one that is not
// mapped is errs.Invalid. Without a namespace (nil) they are the same.
func (u *UserNamespace) Host(uid, gid uint32) (hostUID, hostGID uint32, err error) {
	if u == nil {
		return uid, gid, nil
	}
	if hostUID, err = toHost(u.UIDs, "user", uid); err != nil {
		return 0, 0, err
	}
	hostGID, err = toHost(u.GIDs, "group", gid)
	return hostUID, hostGID, err
}

func toHost(maps []IDMapping, kind string, id uint32) (uint32, error) {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Length {
			return m.HostID + (id - m.ContainerID), nil
		}
	}
	return 0, errs.New("map "+kind, errs.Invalid, fmt.Sprint(id), fmt.Errorf("no %s of the host stands for it in the pod's user namespace", kind))
}
