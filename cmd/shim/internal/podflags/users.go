package podflags

import (
	"errors"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// usersAuto is what --private-users has for a value when none is given.
const usersAuto = "auto"

// The ranges of host ids for pods with users of their own: above those that
// kubelet and useradd(8) give out, below what needs 32 bits.
const (
	firstUsers  = 1 << 30
	lastUsers   = 1 << 31
	usersLength = 1 << 16
)

// Users gives the pod's user namespace; nil for none. taken are those of
// other pods.
func (p *Pod) Users(taken []manifest.UserNamespace) (*manifest.UserNamespace, error) {
	switch p.PrivateUsers {
	case "", "no", "false":
		return nil, nil
	case usersAuto, "pick", "yes", "true":
		return FreeUsers(taken)
	}
	const flag = "private-users"
	first, length, found := strings.Cut(p.PrivateUsers, ":")
	if !found {
		length = strconv.Itoa(usersLength)
	}
	begin, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return nil, invalid(flag, "%.40q is neither auto nor FIRST[:LENGTH]", p.PrivateUsers)
	}
	n, err := strconv.ParseUint(length, 10, 32)
	if err != nil || n == 0 || begin+n > math.MaxUint32 {
		return nil, invalid(flag, "%.40q is no range of ids", p.PrivateUsers)
	}
	return mapped(uint32(begin), uint32(n)), nil
}

func mapped(first, length uint32) *manifest.UserNamespace {
	ids := []manifest.IDMapping{{HostID: first, ContainerID: 0, Length: length}}
	return &manifest.UserNamespace{UIDs: ids, GIDs: ids}
}

// FreeUsers picks a range by chance that no pod has: two commands at once
// hardly pick the same.
func FreeUsers(taken []manifest.UserNamespace) (*manifest.UserNamespace, error) {
	const slots = (lastUsers - firstUsers) / usersLength
	start := rand.IntN(slots) //nolint:gosec // no secret: it only spreads them
	for i := range slots {
		first := firstUsers + uint32((start+i)%slots)*usersLength
		if free(first, taken) {
			return mapped(first, usersLength), nil
		}
	}
	return nil, errs.New("find user ids", errs.Exhausted, "", errors.New("every range is some pod's: name one with --private-users=FIRST"))
}

func free(first uint32, taken []manifest.UserNamespace) bool {
	for _, t := range taken {
		for _, ids := range [][]manifest.IDMapping{t.UIDs, t.GIDs} {
			for _, m := range ids {
				if uint64(m.HostID) < uint64(first)+usersLength && uint64(first) < uint64(m.HostID)+uint64(m.Length) {
					return false
				}
			}
		}
	}
	return true
}
