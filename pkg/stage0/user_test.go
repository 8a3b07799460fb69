package stage0

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

const (
	testPasswd = `root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1001:App:/home/app:/bin/sh
twin:x:1000:1099::/:
huge:x:4294967296:4294967296::/:
wide:x:7:4294967295::/:
short
`
	testGroup = `root:x:0:
wheel:x:10:root,app
staff:x:50:app
app:x:1001:
huge:x:4294967296:greedy
`
)

func id(n uint32) *uint32 { return &n }

func TestResolveUser(t *testing.T) {
	for name, c := range map[string]struct {
		want  UserRequest
		image string
		user  manifest.User
	}{
		"nobody asks":            {UserRequest{}, "", manifest.User{AdditionalGIDs: []uint32{0, 10}}},
		"image's name":           {UserRequest{}, "app", manifest.User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{1001, 10, 50}}},
		"image's number":         {UserRequest{}, "1000", manifest.User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{1001, 10, 50}}},
		"image's stranger":       {UserRequest{}, "4242", manifest.User{UID: 4242, AdditionalGIDs: []uint32{0}}},
		"image's user and group": {UserRequest{}, "app:staff", manifest.User{UID: 1000, GID: 50, AdditionalGIDs: []uint32{50, 10}}},
		"image's numbers":        {UserRequest{}, "7000:8000", manifest.User{UID: 7000, GID: 8000, AdditionalGIDs: []uint32{8000}}},
		"image's group alone":    {UserRequest{}, ":staff", manifest.User{GID: 50, AdditionalGIDs: []uint32{50, 10}}},
		"image without group":    {UserRequest{}, "app:", manifest.User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{1001, 10, 50}}},
		"number":                 {UserRequest{UID: id(2000)}, "app:staff", manifest.User{UID: 2000, AdditionalGIDs: []uint32{0}}},
		"number of the image":    {UserRequest{UID: id(7000)}, "7000:8000", manifest.User{UID: 7000, GID: 8000, AdditionalGIDs: []uint32{8000}}},
		"name of the image":      {UserRequest{Username: "app"}, "app:staff", manifest.User{UID: 1000, GID: 50, AdditionalGIDs: []uint32{50, 10}}},
		"name over number":       {UserRequest{Username: "app", UID: id(5)}, "", manifest.User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{1001, 10, 50}}},
		"number as name":         {UserRequest{Username: "0"}, "app", manifest.User{AdditionalGIDs: []uint32{0, 10}}},
		"group":                  {UserRequest{UID: id(1000), GID: id(9)}, "app:staff", manifest.User{UID: 1000, GID: 9, AdditionalGIDs: []uint32{9, 10, 50}}},
		"more groups":            {UserRequest{Username: "app", Supplemental: []uint32{77, 50, 77}}, "", manifest.User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{1001, 10, 50, 77}}},
		"strict":                 {UserRequest{Username: "app", Supplemental: []uint32{77}, Strict: true}, "", manifest.User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{1001, 77}}},
		"group by name":          {UserRequest{Username: "app", Groupname: "staff"}, "", manifest.User{UID: 1000, GID: 50, AdditionalGIDs: []uint32{50, 10}}},
		"group by number":        {UserRequest{Username: "app", Groupname: "9"}, "app:staff", manifest.User{UID: 1000, GID: 9, AdditionalGIDs: []uint32{9, 10, 50}}},
		"not root":               {UserRequest{NonRoot: true}, "7000", manifest.User{UID: 7000, AdditionalGIDs: []uint32{0}}},
		"image's user is absent": {UserRequest{UID: id(3)}, "absent:absent", manifest.User{UID: 3, AdditionalGIDs: []uint32{0}}},
	} {
		got, err := ResolveUser(c.want, c.image, []byte(testPasswd), []byte(testGroup))
		if err != nil || !reflect.DeepEqual(got, c.user) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestResolveUserWithoutFiles(t *testing.T) {
	got, err := ResolveUser(UserRequest{UID: id(1), GID: id(2)}, "", nil, nil)
	if err != nil || !reflect.DeepEqual(got, manifest.User{UID: 1, GID: 2, AdditionalGIDs: []uint32{2}}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestResolveUserRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		want  UserRequest
		image string
		names string // what the error must name
	}{
		"absent":            {UserRequest{Username: "absent"}, "", `"absent"`},
		"absent in image":   {UserRequest{}, "absent", "/etc/passwd"},
		"absent group":      {UserRequest{}, "app:absent", "/etc/group"},
		"group only":        {UserRequest{GID: id(1)}, "app", "without a user"},
		"negative":          {UserRequest{}, "-1", "-1"},
		"signed":            {UserRequest{}, "+0", "+0"},
		"cut down to root":  {UserRequest{}, "4294967296", "4294967296"},
		"far too large":     {UserRequest{}, strings.Repeat("9", 40), "id"},
		"no id":             {UserRequest{UID: id(4294967295)}, "", "4294967295"},
		"no group id":       {UserRequest{UID: id(1), GID: id(4294967295)}, "", "4294967295"},
		"large group":       {UserRequest{}, "1:4294967296", "4294967296"},
		"passwd cuts down":  {UserRequest{Username: "huge"}, "", "huge"},
		"passwd group":      {UserRequest{Username: "wide"}, "", "wide"},
		"two colons":        {UserRequest{}, "app:staff:x", "staff:x"},
		"too many groups":   {UserRequest{UID: id(1), Supplemental: sequence(70000)}, "", "groups"},
		"line without end":  {UserRequest{}, "long", "/etc/passwd"},
		"root by default":   {UserRequest{NonRoot: true}, "", "root"},
		"root by name":      {UserRequest{NonRoot: true}, "root", "root"},
		"unknown group":     {UserRequest{Username: "app", Groupname: "absent"}, "", `"absent"`},
		"group name only":   {UserRequest{Groupname: "staff"}, "app", "without a user"},
		"empty after names": {UserRequest{}, " ", `" "`},
	} {
		passwd := testPasswd
		if c.image == "long" {
			passwd += strings.Repeat("x", 1<<20)
		}
		got, err := ResolveUser(c.want, c.image, []byte(passwd), []byte(testGroup))
		if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func sequence(n uint32) (list []uint32) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

func FuzzResolveUser(f *testing.F) {
	f.Add("app:staff", testPasswd, testGroup)
	f.Add("1:", "::::::", ":::,,")
	f.Fuzz(func(t *testing.T, image, passwd, group string) {
		got, err := ResolveUser(UserRequest{}, image, []byte(passwd), []byte(group))
		if err == nil && (len(got.AdditionalGIDs) == 0 || got.AdditionalGIDs[0] != got.GID) {
			t.Errorf("%q: %+v", image, got)
		}
	})
}
