package web

import (
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// longName is one that robots write, and that doesn't fit on a phone.
const longName = "registry.example.com/team/continuous-integration/branches/feature-with-a-long-name/app:v1.2.3-rc.4-20261121T070000Z"

// TestScreens walks through the page on a phone and on a desk, by day and by
// night: nothing is wider than the screen, whatever it has to show. Set
// STAGELET_TEST_SCREENSHOTS to see it.
func TestScreens(t *testing.T) {
	n := newNode(t, "registry.example.com")
	archive, unsigned := n.save("app.tar", app(longName)), n.save("unsigned.tar", app("other."+longName))
	unnamed := n.save("an-archive-with-a-long-name-whose-image-has-none-at-all.tar", nameless)
	for _, c := range []struct {
		name string
		screen
		scheme string
	}{{"phone", phone(), "light"}, {"phone-dark", phone(), "dark"}, {"desktop-dark", desktop(), "dark"}, {"desktop", desktop(), "light"}} {
		t.Run(c.name, func(t *testing.T) {
			n.t = t
			b := newBrowser(t, n.url, c.screen)
			call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: c.scheme}}})
			look := func(where string) {
				t.Helper()
				b.fits(c.screen, where)
				b.screenshot(c.name + "-" + where)
			}
			b.do(chromedp.Navigate(n.url + "/"))
			b.says("Sign in")
			look("sign-in")
			b.do(chromedp.SendKeys(chromedp.CSS("#token"), n.token+"\r"))
			b.says("There are no images")
			look("nothing")
			b.drop("#drop", unnamed)
			b.ends("refused")
			b.drop("#drop", unsigned)
			b.await(`document.querySelector(%q).innerText.includes("unsigned.tar")`, upload)
			b.ends("refused")
			look("refused")
			b.throttle(256 << 10)
			b.drop("#drop", archive)
			b.await(`document.querySelector("%s progress").value > 5`, upload)
			look("upload")
			b.throttle(-1)
			b.ends("done")
			n.command("image", "tag", longName, "registry.example.com/short:v1")
			b.says("registry.example.com/short:v1")
			b.do(chromedp.Click(chromedp.CSS("#images summary")))
			b.says("Accepted because")
			look("images")
			b.do(chromedp.Click(chromedp.CSS("#images .remove")), chromedp.WaitVisible(chromedp.CSS("#confirm")))
			look("remove")
			b.do(chromedp.Click(chromedp.CSS("#confirm-no")))

			id := firstLine(n.command("run", "--detach", "--pod-name=a-pod-with-a-name-as-controllers-give-them-5d7f8c9b4-x2x7k", "--memory=64Mi", longName, "--",
				"sh", "-c", `for i in 1 2 3; do echo "$i: a line that is longer than the screen of any phone, though logs are full of them, and $PATH"; done; exec sleep 1000`))
			b.do(chromedp.Click(chromedp.CSS("#nav-pods")))
			b.await(`document.querySelectorAll("#pods .meter:last-child .spark polyline")[0]?.getAttribute("points")?.split(" ").length >= 3`)
			b.says(" MB")
			look("pods")
			b.do(chromedp.Click(chromedp.CSS("#pods .show-log")), chromedp.WaitVisible(chromedp.CSS("#log")))
			b.says("3: a line")
			look("log")
			b.do(chromedp.Click(chromedp.CSS("#log-close")))
			n.command("stop", "--force", id)
			b.says("exited 137")
			look("ended")
			n.command("rm", id)
			n.command("image", "rm", longName, "registry.example.com/short:v1")
		})
		n.t = t
	}
}
