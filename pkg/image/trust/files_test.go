package trust

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/signed"
	"github.com/stagelet/stagelet/pkg/image"
)

func TestPrefixesMatchWholeComponents(t *testing.T) {
	const hash = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, c := range []struct {
		prefix, ref string
		covers      bool
	}{
		{"example.com", "example.com/app", true},
		{"example.com", "example.com:5000/app", false},
		{"example.com:5000", "example.com:5000/app", true},
		{"example.com", "example.com.evil.org/app", false},
		{"example.com/etc", "example.com/etc", true},
		{"example.com/etc", "example.com/etc:v1", true},
		{"example.com/etc", "example.com/etc@" + hash, true},
		{"example.com/etc", "example.com/etc/app", true},
		{"example.com/etc", "example.com/etcd", false},
		{"example.com/etc", "example.com/etc-d", false},
		{"example.com/app:v1", "example.com/app:v1", true},
		{"example.com/app:v1", "example.com/app:v10", false},
		{"example.com/app@" + hash, "example.com/app@" + hash, true},
		{"example.com/app@" + hash, "example.com/app", false},
		{"docker.io", "busybox", true},
		{"docker.io/library", "busybox", true},
		{"docker.io/team", "team/app", true},
		{"localhost", "localhost/app", true},
	} {
		p, err := ParsePrefix(c.prefix)
		if err != nil {
			t.Errorf("%s: %v", c.prefix, err)
			continue
		}
		ref, err := image.ParseRef(c.ref)
		if err != nil {
			t.Fatal(err)
		}
		if p.Covers(ref) != c.covers {
			t.Errorf("%s covers %s: must be %v", c.prefix, c.ref, c.covers)
		}
	}
	for _, bad := range []string{
		"", "busybox", "team/app", "example.com/", "example.com//x", "/example.com", "example.com/../x", "example.com/App",
		"index.docker.io/library", "https://example.com", "example.com/app:", "example.com/app@sha256:00", "example.com/.",
		strings.Repeat("a.", 2000),
	} {
		if p, err := ParsePrefix(bad); err == nil {
			t.Errorf("%q is the prefix %q", bad, p)
		} else if !errors.Is(err, errs.Invalid) && !errors.Is(err, errs.Exhausted) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestRulesOfAllAncestorsCount(t *testing.T) {
	for _, place := range []string{
		"root.d", "prefix.d/registry.example.com", "prefix.d/registry.example.com/team",
		"prefix.d/registry.example.com/team/app", "prefix.d/registry.example.com/team/app:v1",
	} {
		b := newBench(t)
		b.trust("registry.example.com/team/app", signed.NewKey(t)) // another rule takes nothing away
		write(t, b.local, place+"/"+b.key.Fingerprint(), string(b.key.PEM()))
		b.sign(b.key)
		b.accepted()
	}
	for _, place := range []string{
		"prefix.d/registry.example.com/te", "prefix.d/registry.example.com/team/app2", "prefix.d/registry.example.com/team/app:v2",
		"prefix.d/example.com",
	} {
		b := newBench(t)
		write(t, b.local, place+"/"+b.key.Fingerprint(), string(b.key.PEM()))
		b.sign(b.key)
		b.refused(NoRule)
	}
}

func TestLocalFileHidesTheInstalledOne(t *testing.T) {
	b := newBench(t)
	b.sign(b.key)
	name := "prefix.d/registry.example.com/" + b.key.Fingerprint()
	write(t, b.system, name, string(b.key.PEM()))
	b.accepted()
	mask := write(t, b.local, name, "")
	b.refused(NoRule)
	if err := os.Remove(mask); err != nil {
		t.Fatal(err)
	}
	b.accepted()
	// An installed file that is broken is hidden too.
	write(t, b.system, "root.d/"+strings.Repeat("0", 64), "broken")
	b.refused(BadPolicy)
	write(t, b.local, "root.d/"+strings.Repeat("0", 64), "")
	b.accepted()
}

func TestRulesAreReadAgain(t *testing.T) {
	b := newBench(t)
	b.sign(b.key)
	b.refused(NoRule)
	b.trust("registry.example.com", b.key)
	b.accepted()
	path := filepath.Join(b.local, "prefix.d/registry.example.com", b.key.Fingerprint())
	if err := os.WriteFile(path, []byte("-----BEGIN PUBLIC KEY-----\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.refused(BadPolicy)
	if err := os.WriteFile(path, b.key.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	b.accepted()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	b.refused(NoRule)
}

func TestNamespaces(t *testing.T) {
	b := newBench(t)
	b.sign(b.key)
	checkIn := func(namespace string) error {
		_, err := b.policy.Check(context.Background(), b.plan, b.repo, Scope{Namespace: namespace})
		return err
	}
	file := "prefix.d/registry.example.com/" + b.key.Fingerprint()
	write(t, b.local, "namespace.d/payments/"+file, string(b.key.PEM()))
	if err := checkIn("payments"); err != nil {
		t.Error(err)
	}
	refusedFor(t, checkIn("web"), NoRule)
	refusedFor(t, checkIn(""), NoRule)
	contains(t, checkIn("web"), "--namespace web")

	// What holds everywhere holds in a namespace, unless it is hidden there.
	write(t, b.system, file, string(b.key.PEM()))
	if err := checkIn("web"); err != nil {
		t.Error(err)
	}
	write(t, b.local, "namespace.d/web/"+file, "")
	refusedFor(t, checkIn("web"), NoRule)
	if err := errors.Join(checkIn(""), checkIn("payments")); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"..", "a/b", ".", "../payments", strings.Repeat("x", 300)} {
		if err := checkIn(bad); !errors.Is(err, errs.Invalid) {
			t.Errorf("namespace %q: %v", bad, err)
		}
	}
}

func TestUnusableFilesFailClosed(t *testing.T) {
	good := signed.NewKey(t)
	for _, c := range []struct {
		name, file string
		make       func(t *testing.T, path string)
		want       Reason
	}{
		{"garbage", strings.Repeat("0", 64), content("garbage"), BadPolicy},
		{"name of another key", strings.Repeat("0", 64), content(string(good.PEM())), WrongName},
		{"several keys", good.Fingerprint(), content(string(good.PEM()) + string(signed.NewKey(t).PEM())), SeveralKeys},
		{"private key", good.Fingerprint(), content("-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n"), PrivateKey},
		{"huge", good.Fingerprint(), content(strings.Repeat("x", maxRuleFile+1)), BadPolicy},
		{"dangling link", good.Fingerprint(), func(t *testing.T, path string) {
			if err := os.Symlink("nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, BadPolicy},
		{"FIFO", good.Fingerprint(), func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, BadPolicy},
		{"unknown field", "x.yaml", content("insecure: true\nsecure: false\n"), BadPolicy},
		{"field twice", "x.yaml", content("insecure: true\ninsecure: true\n"), BadPolicy},
		{"no sort of rule", "x.yaml", content("reference: any\n"), BadPolicy},
		{"two sorts of rule", "x.yaml", content("insecure: true\nidentity: {issuer: a, subject: b}\n"), BadPolicy},
		{"insecure with terms", "x.yaml", content("insecure: true\nreference: any\n"), BadPolicy},
		{"no issuer", "x.yaml", content("identity: {subject: b}\n"), BadPolicy},
		{"no subject", "x.yaml", content("identity: {issuer: b}\n"), BadPolicy},
		{"bad pattern", "x.yaml", content("identity: {issuer: b, subjectRegexp: '('}\n"), BadPolicy},
		{"bad reference", "x.yaml", content("identity: {issuer: b, subject: c}\nreference: all\n"), BadPolicy},
		{"not YAML", "x.yaml", content("\t{"), BadPolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.trust("registry.example.com", b.key)
			b.sign(b.key)
			write(t, b.local, "prefix.d/registry.example.com/team/"+".keep", "")
			path := filepath.Join(b.local, "prefix.d/registry.example.com/team", c.file)
			c.make(t, path)
			b.refused(BadPolicy, c.want)
			_, err := b.check()
			contains(t, err, path)
			// What the file doesn't cover goes on.
			b.plan.Asked, b.plan.Names = planOf(t, "registry.example.com/other:v1").Asked, nil
			b.accepted()
		})
	}
}

func content(s string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnreadableDirectoryFailsClosed(t *testing.T) {
	b := newBench(t)
	b.trust("registry.example.com", b.key)
	b.sign(b.key)
	write(t, b.local, "prefix.d/registry.example.com/team", "a file where a directory can be")
	_, err := b.check()
	refusedFor(t, err, BadPolicy)
	contains(t, err, "prefix.d/registry.example.com/team")
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{Dirs: []string{"x"}}, {TrustedRoot: "x"}, {PolicyJSON: "x"}, {RegistriesD: "x"}} {
		if _, err := LoadPolicy(o); !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestManage(t *testing.T) {
	b := newBench(t)
	b.sign(b.key)
	dirs := b.o.Dirs
	place := Place{Prefix: "registry.example.com/team"}
	rule, err := NewKey(b.key.PEM())
	if err != nil {
		t.Fatal(err)
	}
	if rule.Name != b.key.Fingerprint() {
		t.Errorf("named %s", rule.Name)
	}
	for range 2 {
		path, err := Add(b.local, place, rule)
		if err != nil || path != filepath.Join(b.local, "prefix.d/registry.example.com/team", rule.Name) {
			t.Fatal(path, err)
		}
	}
	// Whoever died in writing a rule left nothing that counts.
	unfinished := atomicfile.TempName(filepath.Join(b.local, "prefix.d/registry.example.com/team", rule.Name))
	if err := os.WriteFile(unfinished, b.key.PEM()[:10], 0o644); err != nil {
		t.Fatal(err)
	}
	b.accepted()
	if _, err := Add(b.system, place, rule); err != nil {
		t.Fatal(err)
	}
	id, err := WriteRule(Rule{Identity: &Identity{Issuer: "https://issuer.example.com", Subject: "me@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Add(b.local, Place{Namespace: "web"}, id); err != nil {
		t.Fatal(err)
	}
	write(t, b.local, "root.d/broken.yaml", "x")
	list, err := List(dirs)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range list {
		got = append(got, string(l.Prefix)+"|"+l.Namespace+"|"+l.Name)
		switch {
		case l.Name == "broken.yaml" && l.Problem == "", l.Name != "broken.yaml" && l.Problem != "":
			t.Errorf("%+v", l)
		case l.Masked != strings.HasPrefix(l.Path, b.system):
			t.Errorf("%+v", l)
		}
	}
	want := "||broken.yaml " + "registry.example.com/team||" + rule.Name + " registry.example.com/team||" + rule.Name + " |web|" + id.Name
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	if _, err := Remove(dirs, Place{}, "broken.yaml"); err != nil {
		t.Fatal(err)
	}
	// The installed one can't be removed, only hidden.
	for range 2 {
		if _, err := Remove(dirs, place, rule.Name); err != nil {
			t.Fatal(err)
		}
		b.refused(NoRule)
	}
	for _, name := range []string{"nothing", "broken.yaml"} {
		if _, err := Remove(dirs, Place{}, name); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "..", "../x", ".hidden"} {
		if _, err := Remove(dirs, Place{}, name); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []Place{{Prefix: "../x"}, {Prefix: "busybox"}, {Namespace: "../x"}} {
		if _, err := Add(b.local, bad, rule); !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := NewKey([]byte("nothing")); !errors.Is(err, errs.Invalid) {
		t.Error(err)
	}
}

func TestShippedRules(t *testing.T) {
	dir, err := filepath.Abs("../../../trustedkeys")
	if err != nil {
		t.Fatal(err)
	}
	list, err := List([]string{dir})
	if err != nil || len(list) != 1 || list[0].Problem != "" || list[0].Prefix != "registry.k8s.io" ||
		list[0].Text != "krel-trust@k8s-releng-prod.iam.gserviceaccount.com of https://accounts.google.com, signed reference: any" {
		t.Errorf("%+v %v", list, err)
	}
	p, err := LoadPolicy(Options{Dirs: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	root, err := p.trustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	// Rekor v1's key, since 2021.
	if root.RekorLogs()["c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d"] == nil || len(root.CTLogs()) == 0 {
		t.Error("the shipped root lacks the public transparency logs")
	}
	pause := planOf(t, "registry.k8s.io/pause:3.10")
	_, err = p.Check(context.Background(), pause, signed.NewRepo(t), Scope{})
	refusedFor(t, err, Unsigned)
}

func TestUpdateTrustedRoot(t *testing.T) {
	b := newBench(t)
	if _, err := b.policy.trustedRoot(); !errors.Is(err, NoTrustRoot) {
		t.Errorf("got %v", err)
	}
	shipped, err := os.ReadFile("../../../trustedkeys/" + rootFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{}", `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`} {
		if _, err := UpdateTrustedRoot(b.local, []byte(bad)); !errors.Is(err, errs.Invalid) || !errors.Is(err, BadTrustRoot) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	path, err := UpdateTrustedRoot(b.local, shipped)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.policy.trustedRoot(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.policy.trustedRoot(); !errors.Is(err, BadTrustRoot) || !errors.Is(err, Refused) {
		t.Errorf("got %v", err)
	}
}
