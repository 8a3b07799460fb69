package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/host"
)

const appName = "registry.example.com/team/app:v1"

// open shows the page to somebody who has the token.
func (n *node) open(s screen) *browser {
	n.t.Helper()
	b := newBrowser(n.t, n.url, s)
	b.do(chromedp.Navigate(n.url + "/#token=" + n.token))
	b.says("Drop an archive here")
	return b
}

// upload is the topmost upload on the page.
const upload = "#uploads article.upload"

// ends waits until the topmost upload has come to that end.
func (b *browser) ends(state string) {
	b.t.Helper()
	b.await(`["done", "refused"].includes(document.querySelector(%q)?.dataset.state)`, upload)
	if got := ask[string](b, `document.querySelector(%q).dataset.state`, upload); got != state {
		b.t.Fatalf("the upload is %s, not %s; the page says:\n%s", got, state, b.text())
	}
}

// told gives the lines of the topmost upload's story, by what they are about
// and how they look.
func (b *browser) told() (lines [][3]string) {
	b.t.Helper()
	return ask[[][3]string](b, `[...document.querySelectorAll(%q)].map((li) => [li.dataset.step, li.className, li.textContent])`, upload+":first-child .story li")
}

// fits checks that nothing makes the page wider than the screen.
func (b *browser) fits(s screen, where string) {
	b.t.Helper()
	wide := ask[[]string](b, `[...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.closest("pre, .skip, .visually-hidden, svg")
		&& e.getBoundingClientRect().right > %d + 0.5).map((e) => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 80))`, s.width)
	if width := ask[int64](b, `document.documentElement.scrollWidth`); width > s.width || len(wide) != 0 {
		b.t.Errorf("%s: the page is %d wide on a screen of %d: %q", where, width, s.width, wide)
	}
}

func TestFromArchiveToPod(t *testing.T) {
	n := newNode(t, "registry.example.com")
	archive := n.save("app.tar", app(appName))
	b := n.open(desktop())
	if hash := ask[string](b, `location.hash`); hash != "#images" {
		t.Errorf("the address still says %s", hash)
	}
	b.says("There are no images")
	b.screenshot("images-none")

	// In: slowly, until one has seen that.
	b.throttle(256 << 10)
	b.drop("#drop", archive)
	var seen []float64
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		now := ask[struct {
			State string
			Bar   float64
		}](b, `(() => { const u = document.querySelector(%q), p = u?.querySelector("progress");
			return {State: u?.dataset.state ?? "", Bar: p?.hasAttribute("value") ? p.value : -1} })()`, upload)
		if now.State == "sending" && now.Bar > 0 && now.Bar < 100 && !slices.Contains(seen, now.Bar) {
			if seen = append(seen, now.Bar); len(seen) == 5 {
				b.screenshot("images-upload")
				b.throttle(-1)
			}
		}
		if now.State == "done" || now.State == "refused" {
			break
		}
	}
	b.ends("done")
	if len(seen) < 3 || !slices.IsSorted(seen) {
		t.Errorf("the bar stood at %v", seen)
	}
	b.throttle(-1)
	image := n.inspect(appName)
	n.checkStory(b, image.ID, image.Layers)
	b.says("Unsigned, accepted by a rule")
	b.await(`document.querySelector("#images article[data-id='%s']")`, image.ID)
	b.do(chromedp.Click(chromedp.CSS("#images article summary")))
	for _, l := range image.Layers {
		b.says(l.DiffID, l.BlobDigest)
	}
	b.says(image.ID, image.Manifest, "insecure.yaml")
	b.screenshot("images-one")

	pullName := ask[string](b, `[...document.querySelectorAll("#images dt")].find((e) => e.textContent === "Pull it as").nextElementSibling.querySelector("code").textContent`)

	n.runAndWatch(b)
	n.pullsBack(pullName, image.ID)
	n.isFetched(pullName, image.ID)

	// Out, as somebody who clicks; what uses it is told.
	b.do(chromedp.Click(chromedp.CSS("#nav-images")), chromedp.Click(chromedp.CSS("#images article .remove")), chromedp.WaitVisible(chromedp.CSS("#confirm")))
	b.says("Remove registry.example.com/team/app:v1?")
	b.screenshot("images-remove")
	b.do(chromedp.Click(chromedp.CSS("#confirm-yes")))
	b.says("There are no images")
	n.command("gc", "--grace-period=1ns")
	n.isEmpty()
}

// inspected is an image as a command has it.
type inspected struct {
	ID       string
	Manifest string
	Layers   []struct{ DiffID, BlobDigest string }
}

func (n *node) inspect(name string) (i inspected) {
	n.t.Helper()
	if err := json.Unmarshal([]byte(n.command("image", "inspect", name)), &i); err != nil {
		n.t.Fatal(err)
	}
	return i
}

// checkStory checks that each part of the image was told of as checked.
func (n *node) checkStory(b *browser, id string, layers []struct{ DiffID, BlobDigest string }) {
	n.t.Helper()
	var steps []string
	text, at := "", 0
	for _, line := range b.told() {
		if line[0] == "layer" {
			if at++; !strings.HasPrefix(line[2], fmt.Sprintf("layer %d of 2", at)) {
				n.t.Errorf("in the place of layer %d: %s", at, line[2])
			}
		}
		steps = append(steps, line[0])
		text += line[2] + "\n"
		if line[1] != "ok" {
			n.t.Errorf("%q looks %s", line[2], line[1])
		}
	}
	if want := []string{"archive", "name", "config", "trust", "layer", "layer", "done"}; !slices.Equal(steps, want) {
		n.t.Errorf("told of %q, not %q", steps, want)
	}
	for _, want := range []string{"docker save", appName, id, layers[0].DiffID, layers[1].DiffID, "insecure.yaml"} {
		if !strings.Contains(text, want) {
			n.t.Errorf("it isn't told of %s:\n%s", want, text)
		}
	}
}

// runAndWatch runs a pod, which is seen on the page, until it is gone.
func (n *node) runAndWatch(b *browser) {
	n.t.Helper()
	b.do(chromedp.Click(chromedp.CSS("#nav-pods")))
	b.says("There are no pods")
	const counting = `trap "exit 3" TERM; n=0; while :; do n=$((n+1)); echo "line $n"; echo "error $n" >&2; sleep 0.2; done`
	id := strings.TrimSpace(n.command("run", "--detach", "--pod-name=counter", "--name=counting", appName, "--", "sh", "-c", counting))
	pod := fmt.Sprintf(`#pods article[data-id="%s"]`, id)
	b.await(`document.querySelector(%q)?.querySelector(".app .badge")?.textContent === "running"`, pod)
	b.says("counter", "counting", appName, "by hand")
	if facts := ask[string](b, `document.querySelector(%q).querySelector(".facts code")?.textContent ?? ""`, pod); !strings.HasPrefix(facts, "10.") {
		n.t.Errorf("the pod's address is %q", facts)
	}
	b.await(`/up \d+ s/.test(document.querySelector(%q).innerText)`, pod)
	b.await(`document.querySelector(%q).querySelector(".spark polyline")?.getAttribute("points")?.split(" ").length >= 3`, pod)
	b.says("kB", "CPU")
	b.screenshot("pods")

	b.do(chromedp.Click(chromedp.CSS(pod+" .show-log")), chromedp.WaitVisible(chromedp.CSS("#log")))
	b.says("line 1", "error 1", "live")
	lines := ask[int](b, `document.querySelector("#log-lines").childElementCount`)
	b.await(`document.querySelector("#log-lines").childElementCount > %d + 5`, lines)
	b.screenshot("log")
	b.do(chromedp.Click(chromedp.CSS("#log-close")), chromedp.WaitNotVisible(chromedp.CSS("#log")))

	n.command("stop", id)
	b.await(`/exited 3/.test(document.querySelector(%q)?.innerText)`, pod)
	b.screenshot("pods-ended")
	b.do(chromedp.Click(chromedp.CSS(pod+" .show-log")), chromedp.WaitVisible(chromedp.CSS("#log")))
	b.says("ended", "line 1")
	b.do(chromedp.KeyEvent("\u001b"), chromedp.WaitNotVisible(chromedp.CSS("#log")))
	n.command("rm", id)
	b.says("There are no pods")
}

// pullsBack has the image by a client that was written by others, who log in
// with the token.
func (n *node) pullsBack(name, id string) {
	n.t.Helper()
	as := func(password string) crane.Option {
		return crane.WithAuth(&authn.Basic{Username: "any", Password: password})
	}
	if _, err := crane.Pull(name, as("wrong"), crane.WithContext(n.t.Context())); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
		n.t.Errorf("pulled with a wrong token: %v", err)
	}
	pulled, err := crane.Pull(name, as(n.token), crane.WithContext(n.t.Context()))
	if err != nil {
		n.t.Fatal(err)
	}
	if got, err := pulled.ConfigName(); err != nil || got.String() != id {
		n.t.Errorf("its id is %s, not %s, %v", got, id, err)
	}
	path := n.Path("pulled.tar")
	if err := crane.Save(pulled, "localhost/pulled:v1", path); err != nil { // which checks all digests
		n.t.Error(err)
	}
}

// isFetched has the image by another node, which has the token in a file.
func (n *node) isFetched(name, id string) {
	n.t.Helper()
	h, err := host.New(n.t, testutil.Binaries(n.t), testutil.NeedCNI(n.t), "")
	if err != nil {
		n.t.Fatal(err)
	}
	other := &node{Host: h, t: n.t}
	if out, err := other.Command("fetch", "docker://"+name); err == nil {
		n.t.Errorf("fetched without a token and a rule:\n%s", out)
	}
	registry, _, _ := strings.Cut(name, "/")
	other.accept(registry)
	auth := fmt.Sprintf(`{"rktKind": "auth", "rktVersion": "v1", "domains": [%q], "type": "basic", "credentials": {"user": "any", "password": %q}}`, registry, n.token)
	if err := errors.Join(os.Mkdir(other.Path("auth.d"), 0o700), os.WriteFile(other.Path("auth.d", "node.json"), []byte(auth), 0o600)); err != nil {
		n.t.Fatal(err)
	}
	other.command("fetch", "docker://"+name)
	if all := other.images(); len(all) != 1 || all[0].ID != id {
		n.t.Errorf("fetched %+v, not %s", all, id)
	}
	other.command("image", "verify")
}
