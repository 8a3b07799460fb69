package web

import (
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// keys presses them.
func (b *browser) keys(keys string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(keys))
}

// tabTo presses the tabulator until that element has the focus, and checks that
// one sees it.
func (b *browser) tabTo(selector string) {
	b.t.Helper()
	var way []string
	for range 40 {
		b.keys(kb.Tab)
		if ask[bool](b, `document.activeElement.matches(%q)`, selector) {
			if !ask[bool](b, `(() => { for (let e = document.activeElement; e; e = e.parentElement) {
				const s = getComputedStyle(e);
				if (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2) return true;
			} return false })()`) {
				b.t.Errorf("one doesn't see that %s has the focus", selector)
			}
			return
		}
		way = append(way, ask[string](b, `document.activeElement.tagName + "#" + document.activeElement.id`))
	}
	b.t.Fatalf("the tabulator doesn't come by %s, but by %q", selector, way)
}

// choose answers the dialog for files that a key opens.
func (b *browser) choose(key, file string) {
	b.t.Helper()
	call(b, page.SetInterceptFileChooserDialog, page.SetInterceptFileChooserDialogParams{Enabled: true})
	opened, err := chromedp.Run(b.ctx, chromedp.WaitEvent(page.FileChooserOpened, nil, chromedp.KeyEvent(key)))
	if err != nil {
		b.t.Fatal(err)
	}
	call[dom.SetFileInputFilesParams, cdp.Empty](b, dom.SetFileInputFiles, dom.SetFileInputFilesParams{Files: []string{file}, BackendNodeID: opened.BackendNodeID})
}

// TestByKeyboard: everything can be done without a mouse, and one sees where
// one is.
func TestByKeyboard(t *testing.T) {
	n := newNode(t, "registry.example.com")
	b := newBrowser(t, n.url, desktop())
	b.do(chromedp.Navigate(n.url + "/"))
	b.says("Sign in")
	b.await(`document.activeElement.id === "token"`)
	b.keys(n.token + kb.Enter)
	b.says("There are no images")

	b.tabTo("#file")
	b.choose(" ", n.save("app.tar", app(appName)))
	b.ends("done")
	b.tabTo(upload + " .head button")
	b.keys(kb.Enter)
	b.await(`document.querySelector(%q) === null`, upload)

	b.tabTo("#images summary")
	b.keys(kb.Enter)
	b.says("Accepted because")

	id := n.command("run", "--detach", "--pod-name=words", appName, "--", "sh", "-c", "echo one; exec sleep 1000")
	b.tabTo("#nav-pods")
	b.keys(kb.Enter)
	b.says("words", "running")
	b.tabTo(".show-log")
	b.keys(kb.Enter)
	b.says("one", "live")
	b.await(`document.activeElement.id === "log-lines"`)
	b.keys(kb.Escape)
	b.await(`!document.querySelector("#log").open && document.activeElement.matches(".show-log")`)
	n.command("stop", "--force", firstLine(id))
	n.command("rm", firstLine(id))

	b.tabTo("#nav-images")
	b.keys(kb.Enter)
	b.tabTo("#images .remove")
	b.keys(kb.Enter)
	b.await(`document.querySelector("#confirm").open && document.activeElement.id === "confirm-no"`)
	b.keys(kb.Escape) // not yet
	b.await(`!document.querySelector("#confirm").open`)
	b.keys(kb.Enter)
	b.await(`document.querySelector("#confirm").open`)
	b.tabTo("#confirm-yes")
	b.keys(kb.Enter)
	b.says("There are no images")
	b.tabTo("#sign-out")
	b.keys(kb.Enter)
	b.says("Sign in")
}

func firstLine(text string) (line string) {
	_, _ = fmt.Sscan(text, &line)
	return line
}
