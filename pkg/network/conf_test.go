package network

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

func age(t *testing.T, path string) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func TestReadConfDirTakesTheFirstUsable(t *testing.T) {
	valid := conflist("first", "1.0.0", "bridge")
	for _, tc := range []struct {
		name    string
		files   map[string]string
		want    string
		skipped []string
	}{
		{name: "empty"},
		{name: "by name", files: map[string]string{"20-b.conflist": conflist("b", "1.0.0", "x"), "10-a.conflist": valid}, want: "first"},
		{name: "all endings", files: map[string]string{"10-a.conf": `{"name":"first","type":"bridge","cniVersion":"0.4.0"}`, "20.conflist": conflist("b", "1.0.0", "x")}, want: "first"},
		{name: "json", files: map[string]string{"10-a.json": `{"name":"first","type":"bridge"}`}, want: "first"},
		{name: "others", files: map[string]string{"10-a.conflist.bak": valid, ".10-b.conflist": valid, "README": "x", "x.yaml": "y"}},
		{name: "list with the wrong name", files: map[string]string{"10.conf": valid}, skipped: []string{"10.conf: is a list of plugins: give its name the ending .conflist"}},
		{
			name: "bad ones are passed over",
			files: map[string]string{
				"1.conflist": "{", "2.conflist": `{"name":"x","plugins":[]}`, "3.conflist": conflist("../x", "1.0.0", "a"),
				"4.conflist": conflist("x", "9.0.0", "a"), "5.conflist": conflist("x", "one", "a"), "6.conf": `{"name":"x"}`,
				"7.conflist": `{"name":"x","cniVersion":"1.0.0"}`, "8.conflist": strings.Repeat(" ", maxConfFile+1),
				"90.conflist": valid,
			},
			want:    "first",
			skipped: []string{"1.conflist: ", "2.conflist: ", "3.conflist: ", "4.conflist: cniVersion 9.0.0 is newer than", "5.conflist: cniVersion \"one\"", "6.conf: ", "7.conflist: it names no plugin", "8.conflist: is larger than"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				age(t, filepath.Join(dir, name))
			}
			c, settled := readConfDir(dir, time.Now())
			if !settled {
				t.Error("not settled")
			}
			got := ""
			if c.list != nil {
				got = c.list.Name
			}
			if got != tc.want {
				t.Errorf("network %q, want %q", got, tc.want)
			}
			if len(c.skipped) != len(tc.skipped) {
				t.Fatalf("skipped %q, want %q", c.skipped, tc.skipped)
			}
			for i, want := range tc.skipped {
				if !strings.HasPrefix(c.skipped[i], want) {
					t.Errorf("skipped %q, want %q", c.skipped[i], want)
				}
			}
		})
	}
}

func TestReadConfDirSurvivesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "1.conflist"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "2.conflist"), 0o700); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"3.conflist": "nowhere", "4.conflist": "4.conflist"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	c, settled := readConfDir(dir, time.Now())
	if !settled || c.list != nil || len(c.skipped) != 4 {
		t.Errorf("settled %v, %+v", settled, c)
	}
}

func TestPluginsInADirectoryOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "n"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		age(t, filepath.Join(dir, name))
	}
	write("10.conflist", `{"name":"n","cniVersion":"1.1.0","disableGC":true,"plugins":[{"type":"one"}]}`)
	write("n/20.conf", `{"type":"two"}`)
	c, _ := readConfDir(dir, time.Now())
	if c.list == nil || len(c.list.Plugins) != 2 || !c.list.DisableGC {
		t.Fatalf("%+v", c)
	}
	// DEL has the bytes alone.
	_, _, err := attachment{Config: c.list.Bytes}.conf()
	if err != nil || !strings.Contains(string(c.list.Bytes), `"two"`) {
		t.Errorf("bytes %s: %v", c.list.Bytes, err)
	}
}

func TestReadySaysWhyNotAndWhatToDo(t *testing.T) {
	f := newFixture(t, nil)
	err := f.Ready()
	if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "no usable configuration in "+f.opts.ConfDir+"; install a network add-on, or set network.default to bridge") {
		t.Error(err)
	}
	path := filepath.Join(f.opts.ConfDir, "10.conflist")
	eventually(t, "a file being written", func() bool { // which it is for seconds only
		f.conf("10.conflist", "{")
		err := f.Ready()
		return err != nil && strings.Contains(err.Error(), "10.conflist is being written")
	})
	age(t, path)
	f.configs.load()
	if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "(10.conflist: error parsing configuration list: unexpected end of JSON input)") {
		t.Error(err)
	}
	f.conf("20.conflist", conflist("n", "1.0.0", "good"))
	if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "good: it is not in "+f.opts.BinDirs[0]+"; install it there") {
		t.Error(err)
	}
	f.script("good", "exit 0")
	if err := f.Ready(); err != nil {
		t.Error(err)
	}
	info := f.Info()
	if info.Network != "n" || filepath.Base(info.Source) != "20.conflist" || len(info.Skipped) != 1 || info.Plugins[0] != "good" || info.CNI != "1.0.0" {
		t.Errorf("%+v", info)
	}
}

func TestReadyAsksForSTATUSWithoutWaiting(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Timeouts.Status = patience })
	f.script("moody", `test "$CNI_COMMAND" = STATUS || exit 0
echo asked >> $log
until test -e $log.awake; do sleep 0.02; done
test -e $log.ok && exit 0
echo '{"code":50,"msg":"agent is away"}'; exit 1`)
	f.conf("10.conflist", conflist("n", "1.1.0", "moody"))
	says := func(text string) bool {
		err := f.Ready()
		return err != nil && strings.Contains(err.Error(), text)
	}
	askedAt := func(when time.Time) {
		f.status.mu.Lock()
		defer f.status.mu.Unlock()
		f.status.asked = when
	}
	eventually(t, "question", func() bool {
		if !says("have not answered STATUS yet") {
			t.Fatal("ready before it answered")
		}
		return f.logged() != ""
	})
	askedAt(time.Now().Add(time.Hour)) // the answer will not be old
	f.mark(".awake")
	eventually(t, "answer", func() bool { return says("plugin moody on STATUS: agent is away (it can't add pods now)") })
	if got := strings.Count(f.logged(), "asked"); got != 1 || f.Ready() == nil {
		t.Errorf("asked %d times", got)
	}
	f.mark(".ok")
	askedAt(time.Time{})
	eventually(t, "ready", func() bool { return f.Ready() == nil })
}

func TestReadyWithAPluginThatHangs(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Timeouts.Status = 300 * time.Millisecond })
	f.script("hangs", `test "$CNI_COMMAND" = STATUS || exit 0; exec sleep 1000`)
	f.conf("10.conflist", conflist("n", "1.1.0", "hangs"))
	eventually(t, "a hanging one", func() bool {
		err := f.Ready()
		return err != nil && strings.Contains(err.Error(), "was killed after")
	})
}

// The watch follows the directory through its being made, filled by halves,
// removed and renamed, and made anew.
func TestConfDirIsWatched(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.ConfDir = filepath.Join(filepath.Dir(o.ConfDir), "etc", "cni", "net.d") })
	network := func() string { return f.Info().Network }
	becomes := func(want string) {
		t.Helper()
		eventually(t, "network "+want, func() bool { return network() == want })
	}
	dir := f.opts.ConfDir
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	becomes("")
	write("20.conflist", conflist("a", "1.0.0", "x"))
	becomes("a")

	// Half of a file that would come first takes nothing away, and gives no
	// way to a later one.
	whole := conflist("b", "1.0.0", "x")
	write("10.conflist", whole[:20])
	for range 30 {
		if got := network(); got != "a" {
			t.Fatalf("network %q while a file is being written", got)
		}
		time.Sleep(10 * time.Millisecond)
	}
	write("10.conflist", whole)
	becomes("b")
	if err := os.Remove(filepath.Join(dir, "10.conflist")); err != nil {
		t.Fatal(err)
	}
	becomes("a")
	write("10.conflist", "{")
	time.Sleep(3 * debounce)
	if err := os.Remove(filepath.Join(dir, "20.conflist")); err != nil {
		t.Fatal(err)
	}
	becomes("") // it never became whole
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	write("1.conflist", conflist("c", "1.0.0", "x"))
	becomes("c")
	cni := filepath.Dir(dir)
	if err := os.Rename(cni, cni+".old"); err != nil {
		t.Fatal(err)
	}
	becomes("")
	write("1.conflist", conflist("d", "1.0.0", "x"))
	becomes("d")
	if err := os.RemoveAll(filepath.Dir(cni)); err != nil {
		t.Fatal(err)
	}
	becomes("")
	write("1.conflist", conflist("e", "1.0.0", "x"))
	becomes("e")
}

func TestPodCIDROutlivesRestarts(t *testing.T) {
	f := newFixture(t, nil)
	for _, bad := range []string{"10.0.0.0", "10.0.0.0/33", "10.0.0.0/31", "x,y", "10.0.0.0/24,10.1.0.0/24", "::ffff:1.2.3.0/120", "10.0.0.0/24,", strings.Repeat("1", 10000)} {
		if err := f.SetPodCIDR(bad); !errors.Is(err, errs.Invalid) || len(err.Error()) > 300 {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	if err := f.SetPodCIDR("10.7.0.5/24,fd00:7::/64"); err != nil {
		t.Fatal(err)
	}
	if err := f.SetPodCIDR(""); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	if got := f.Info().PodCIDR; got != "10.7.0.0/24,fd00:7::/64" {
		t.Error(got)
	}
	if err := os.WriteFile(f.configs.podCIDRFile(), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	if got := f.Info().PodCIDR; got != "" {
		t.Error(got)
	}
}

func TestOptionsThatCantWork(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []Options{
		{},
		{CacheDir: "relative"},
		{CacheDir: dir, ConfDir: "relative"},
		{CacheDir: dir, Default: "cilium"},
		{CacheDir: dir, Bridge: Bridge{Name: "longer-than-it-may-be"}},
		{CacheDir: dir, Bridge: Bridge{Name: "a b"}},
		{CacheDir: dir, Bridge: Bridge{CIDR: "x"}},
	} {
		if n, err := New(o); !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v, %v", o, n, err)
		}
	}
}

func TestBitsPerSecond(t *testing.T) {
	for text, want := range map[string]uint64{
		"1k": 1000, "10M": 1e7, "1.5Gi": 3 << 29, "5e6": 5e6, "1P": 1e15, "1000": 1000, "2000000m": 2000,
	} {
		if got, err := bitsPerSecond(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "x", "-1M", "1", "2P", "1e400", "NaN", "Inf", "0x10", "1MM", "1_000k", strings.Repeat("9", 1000)} {
		if got, err := bitsPerSecond(text); err == nil {
			t.Errorf("%.20q: %d", text, got)
		}
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add([]byte(conflist("n", "1.0.0", "bridge")), true)
	f.Add([]byte(`{"name":"n","type":"bridge"}`), false)
	f.Add([]byte(`{"name":"n","plugins":[null]}`), true)
	f.Add([]byte(`{"name":"n","cniVersions":["1.1.0",2],"plugins":{}}`), true)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, isList bool) {
		list, err := parseConf(data, isList, dir)
		if err == nil && (list.Name == "" || len(list.Plugins) == 0) {
			t.Errorf("%q is a network without name or plugins", data)
		}
	})
}
