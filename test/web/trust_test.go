package web

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/stagelet/stagelet/internal/testutil/signed"
)

// TestUnsignedArchive: what nobody signed is refused, and what the page says to
// do about that works.
func TestUnsignedArchive(t *testing.T) {
	n := newNode(t)
	b := n.open(desktop())
	b.drop("#drop", n.save("app.tar", app(appName)))
	b.ends("refused")
	b.says("no rule covers it", "Nothing of it was kept", "accept what nobody signed")
	n.isEmpty()
	b.screenshot("images-unsigned")
	var accept []string
	for _, c := range ask[[]string](b, `[...document.querySelectorAll("%s .help code")].map((c) => c.textContent)`, upload) {
		if words := strings.Fields(c); len(words) > 2 && words[len(words)-1] == "--insecure" {
			accept = words[1:] // without "stagelet"
		}
	}
	if accept == nil {
		t.Fatalf("no command would accept it; the page says:\n%s", b.text())
	}
	n.command(append(accept, "--yes")...)
	b.do(chromedp.Click(chromedp.CSS(upload + " .again")))
	b.ends("done")
	b.says("Unsigned, accepted by a rule")
}

// TestSignedArchive: a signature that is dropped along counts.
func TestSignedArchive(t *testing.T) {
	n := newNode(t)
	gpg := signed.NewGPG(t)
	fingerprint := gpg.Generate("team@example.com", "ed25519", "sign", "never")
	key := n.Path("trust", "prefix.d", "registry.example.com", "team", fingerprint)
	if err := os.MkdirAll(filepath.Dir(key), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, gpg.Run(nil, "--armor", "--export", fingerprint), 0o600); err != nil {
		t.Fatal(err)
	}
	archive := n.save("app.tar", app(appName))
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(archive+".asc", gpg.Run(data, "--armor", "--detach-sign"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := n.open(desktop())
	b.drop("#drop", archive, archive+".asc")
	b.ends("done")
	b.await(`document.querySelector("#images .badge.good")?.textContent === "Signed"`)
	b.do(chromedp.Click(chromedp.CSS("#images article summary")))
	b.says(fingerprint)
	b.screenshot("images-signed")
	// The same signature proves nothing of another archive.
	other := n.save("other.tar", app("registry.example.com/team/other:v1"))
	if err := os.Rename(archive+".asc", other+".asc"); err != nil {
		t.Fatal(err)
	}
	b.drop("#drop", other, other+".asc")
	b.await(`document.querySelector(%q).innerText.includes("other.tar")`, upload)
	b.ends("refused")
	if all := n.images(); len(all) != 1 {
		t.Errorf("there are images: %+v", all)
	}
}

// TestNamelessArchive: who brings an archive without a name is asked for one.
func TestNamelessArchive(t *testing.T) {
	n := newNode(t, "registry.example.com")
	b := n.open(desktop())
	b.drop("#drop", n.save("nameless.tar", nameless))
	b.ends("refused")
	b.says("say what to call it")
	b.screenshot("images-nameless")
	field := chromedp.CSS(upload + " .help input")
	for _, c := range []struct{ name, end, says string }{
		{"Not A Name", "refused", "not a valid reference"},
		{"other.example.com/app:v1", "refused", "no rule covers it"},
		{appName, "done", appName + " was taken in"},
	} {
		// Where a rule is what lacks, another name is offered behind a click; the
		// last one stands in the field.
		if folded := ask[bool](b, `document.querySelector("%s .help details:not([open])") !== null`, upload); folded {
			b.do(chromedp.Click(chromedp.CSS(upload + " .help summary")))
		}
		ask[string](b, `document.querySelector("%s .help input").value = ""`, upload)
		b.do(chromedp.SendKeys(field, c.name+"\r"))
		b.ends(c.end)
		b.says(c.says)
	}
	if all := n.images(); len(all) != 1 || len(all[0].Tags) != 1 || all[0].Tags[0] != appName {
		t.Errorf("images: %+v", all)
	}
}

// TestUploadsThatBreakOff: canceled by a click, and by leaving the page.
func TestUploadsThatBreakOff(t *testing.T) {
	n := newNode(t, "registry.example.com")
	archive := n.save("app.tar", app(appName))
	b := n.open(desktop())
	b.throttle(128 << 10)
	const sending = `document.querySelector(%[1]q)?.dataset.state === "sending" && document.querySelector("%[1]s progress").value > 3`
	b.drop("#drop", archive)
	b.await(sending, upload)
	b.do(chromedp.Click(chromedp.CSS(upload + " .head button")))
	b.ends("refused")
	b.says("Canceled. Nothing of it was kept.")
	n.isEmpty()
	b.drop("#drop", archive)
	b.await(sending, upload)
	b.do(chromedp.Navigate("about:blank"))
	n.isEmpty()
}

// TestTokens: who has none, or a wrong one, sees nothing of the node.
func TestTokens(t *testing.T) {
	n := newNode(t)
	b := newBrowser(t, n.url, desktop())
	b.do(chromedp.Navigate(n.url + "/"))
	b.says("Sign in", "Token")
	b.screenshot("sign-in")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), "wrong\r"))
	b.says("That is not the token of this node.")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), n.token+"\r"))
	b.says("There are no images")
	b.do(chromedp.Reload())
	b.says("There are no images")
	b.do(chromedp.Click(chromedp.CSS("#sign-out")))
	b.says("Sign in")
	b.do(chromedp.Reload())
	b.says("Sign in")
	if text := b.text(); regexp.MustCompile(`no images|Drop an archive`).MatchString(text) {
		t.Errorf("without a token the page says:\n%s", text)
	}
}
