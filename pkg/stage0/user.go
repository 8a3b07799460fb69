package stage0

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// maxGroups bounds the groups of a process (NGROUPS_MAX, credentials(7)).
const maxGroups = 65536

// accounts are the contents of an image's /etc/passwd and /etc/group; nil
// when it has no such file.
type accounts struct{ passwd, group []byte }

// principal is a user as found: by name only when the image knows it.
type principal struct {
	uid, gid uint32
	name     string // "" for a number that /etc/passwd does not list
}

// ResolveUser says who an app runs as: by the request, else by the image's
// configuration (image-spec config.User: "user", "uid", "user:group",
// "uid:gid", or mixed), looked up in the image's passwd(5) and group(5) files.
//
// A user that is not listed may be given by number, and has group 0. A group
// in the image's configuration counts as long as the user is the image's, even
// if the request repeats it, as kubelet's does. The supplementary groups
// always include the primary one, so that leaving a group takes no rights
// away that its members are denied; then come those that /etc/group gives the
// user (unless want.Strict), then the requested ones.
//
// What the image does not know, or a group without a user (CRI run_as_group),
// is errs.Invalid.
func ResolveUser(want UserRequest, imageUser string, passwd, group []byte) (manifest.User, error) {
	a := accounts{passwd, group}
	p, err := a.resolve(want, imageUser)
	if err != nil {
		return manifest.User{}, err
	}
	if want.NonRoot && p.uid == 0 {
		return manifest.User{}, errs.New("resolve user", errs.Invalid, "", errors.New("it is root, which this app must not be: name another user"))
	}
	groups := []uint32{p.gid}
	if !want.Strict && p.name != "" {
		listed, err := a.groupsOf(p.name)
		if err != nil {
			return manifest.User{}, err
		}
		groups = append(groups, listed...)
	}
	groups = unique(append(groups, want.Supplemental...))
	if len(groups) > maxGroups {
		return manifest.User{}, errs.New("resolve user", errs.Invalid, p.name, fmt.Errorf("%d groups, more than %d", len(groups), maxGroups))
	}
	return manifest.User{UID: p.uid, GID: p.gid, AdditionalGIDs: groups}, nil
}

func (a accounts) resolve(want UserRequest, imageUser string) (principal, error) {
	imageName, imageGroup, _ := strings.Cut(imageUser, ":")
	if imageName == "" {
		imageName = "0"
	}
	asked := requestedName(want)
	if asked == "" && (want.GID != nil || want.Groupname != "") {
		return principal{}, errs.New("resolve user", errs.Invalid, "", errors.New("a group is given without a user"))
	}
	name := asked
	if name == "" {
		name = imageName
	}
	p, err := a.user(name)
	if err != nil {
		return principal{}, err
	}
	if want.GID != nil {
		p.gid = *want.GID
		return p, checkID("group", strconv.FormatUint(uint64(p.gid), 10), uint64(p.gid))
	}
	if want.Groupname != "" {
		p.gid, err = a.groupID(want.Groupname)
		return p, err
	}
	if imageGroup == "" {
		return p, nil
	}
	if asked != "" && !a.isUser(imageName, p.uid) {
		return p, nil
	}
	p.gid, err = a.groupID(imageGroup)
	return p, err
}

// isUser reports whether name is the user of that id.
func (a accounts) isUser(name string, uid uint32) bool {
	p, err := a.user(name)
	return err == nil && p.uid == uid
}

// requestedName gives the user that is asked for, by name or number; "" for
// the image's.
func requestedName(want UserRequest) string {
	switch {
	case want.Username != "":
		return want.Username
	case want.UID != nil:
		return strconv.FormatUint(uint64(*want.UID), 10)
	}
	return ""
}

// user looks a name or a number up. As in Docker, what reads as a number is
// one.
func (a accounts) user(name string) (principal, error) {
	uid, numeric, err := parseID("user", name)
	if err != nil {
		return principal{}, err
	}
	found, err := user.ParsePasswdFilter(bytes.NewReader(a.passwd), func(u user.User) bool {
		return numeric && u.Uid == int(uid) || !numeric && u.Name == name
	})
	switch {
	case err != nil:
		return principal{}, errs.New("read /etc/passwd", errs.Invalid, "", err)
	case len(found) == 0 && numeric:
		return principal{uid: uid}, nil
	case len(found) == 0:
		return principal{}, errs.New("resolve user", errs.Invalid, strconv.Quote(name), errors.New("the image's /etc/passwd has no such user"))
	}
	first := found[0]
	for what, id := range map[string]int{"user": first.Uid, "group": first.Gid} {
		if err := checkID(what, first.Name, uint64(id)); err != nil {
			return principal{}, err
		}
	}
	return principal{uid: uint32(first.Uid), gid: uint32(first.Gid), name: first.Name}, nil
}

func (a accounts) groupID(name string) (uint32, error) {
	gid, numeric, err := parseID("group", name)
	if err != nil || numeric {
		return gid, err
	}
	found, err := user.ParseGroupFilter(bytes.NewReader(a.group), func(g user.Group) bool { return g.Name == name })
	switch {
	case err != nil:
		return 0, errs.New("read /etc/group", errs.Invalid, "", err)
	case len(found) == 0:
		return 0, errs.New("resolve group", errs.Invalid, strconv.Quote(name), errors.New("the image's /etc/group has no such group"))
	}
	return uint32(found[0].Gid), checkID("group", name, uint64(found[0].Gid))
}

// groupsOf lists the groups that have the user of that name as a member.
func (a accounts) groupsOf(name string) ([]uint32, error) {
	found, err := user.ParseGroupFilter(bytes.NewReader(a.group), func(g user.Group) bool { return slices.Contains(g.List, name) })
	if err != nil {
		return nil, errs.New("read /etc/group", errs.Invalid, "", err)
	}
	var groups []uint32
	for _, g := range found {
		if err := checkID("group", g.Name, uint64(g.Gid)); err != nil {
			return nil, err
		}
		groups = append(groups, uint32(g.Gid))
	}
	return groups, nil
}

// parseID reports whether text is a number, which must then be an id.
func parseID(what, text string) (id uint32, numeric bool, err error) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		n = math.MaxUint64
	}
	return uint32(n), true, checkID(what, text, n)
}

// checkID refuses what is no id: the largest number of 32 bits means "none"
// to the kernel, and a larger one could be cut down to 0.
func checkID(what, name string, id uint64) error {
	if id < math.MaxUint32 {
		return nil
	}
	return errs.New("resolve "+what, errs.Invalid, strconv.Quote(name), fmt.Errorf("its id is not within 0 and %d", uint32(math.MaxUint32-1)))
}

// unique drops what came before; the order stays.
func unique(ids []uint32) []uint32 {
	seen := make(map[uint32]bool, len(ids))
	return slices.DeleteFunc(ids, func(id uint32) bool {
		if seen[id] {
			return true
		}
		seen[id] = true
		return false
	})
}
