package web

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/stagelet/stagelet/internal/testutil"
)

const (
	// patience is how long a page may take for what it ought to do at once:
	// there may be little of the machine left for it.
	patience = 2 * time.Minute
	// screenshotsEnv names a directory that gets pictures of the page.
	screenshotsEnv = "STAGELET_TEST_SCREENSHOTS"
)

// screen is the size of one, in CSS pixels.
type screen struct{ width, height int64 }

func desktop() screen { return screen{1280, 900} }
func phone() screen   { return screen{360, 740} }

// browser is a tab of a browser that nobody has used before.
type browser struct {
	t   *testing.T
	ctx context.Context // of the tab
	url string          // of the page, without the token

	mu       sync.Mutex
	problems []string // what a page must not do
}

// newBrowser opens an empty tab. What the page at url does that it must not
// do, fails t at its end.
func newBrowser(t *testing.T, url string, s screen) *browser {
	t.Helper()
	b := &browser{t: t, url: url}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(testutil.NeedProgram(t, "chromium")), chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(int(s.width), int(s.height)), chromedp.WSURLReadTimeout(patience),
		chromedp.NoSandbox,                           // root has none
		chromedp.Flag("disable-dev-shm-usage", true), // it is small in containers
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"), // there is no internet
	)...)
	t.Cleanup(stop)
	var leave context.CancelFunc
	b.ctx, leave = chromedp.NewContext(allocator, chromedp.WithErrorf(t.Logf))
	t.Cleanup(func() {
		if t.Failed() {
			b.screenshot("failed-" + strings.ReplaceAll(t.Name(), "/", "-"))
		}
		_ = chromedp.Cancel(b.ctx)
		leave()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, p := range b.problems {
			t.Error(p)
		}
	})
	if err := chromedp.Listen(b.ctx, b.watch); err != nil {
		t.Fatal(err)
	}
	call(b, audits.Enable, cdp.Empty{})
	call(b, log.Enable, cdp.Empty{})
	call(b, network.Enable, network.EnableParams{})
	b.do(chromedp.EmulateViewport(s.width, s.height))
	return b
}

// watch notes what a page must not do. That the server refuses something is
// for the page to show.
func (b *browser) watch(event any) {
	var found string
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		found = "exception: " + (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error()
	case *runtime.EventConsoleAPICalled:
		found = fmt.Sprintf("console.%s:", e.Type)
		for _, a := range e.Args {
			found += " " + string(a.Value) + a.Description
		}
	case *log.EventEntryAdded:
		ours := e.Entry.Source == log.EntrySourceNetwork && strings.HasPrefix(e.Entry.URL, b.url)
		if !ours && (e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning) {
			found = fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if d := e.Issue.Details.ContentSecurityPolicyIssueDetails; d != nil {
			found = fmt.Sprintf("against the content security policy: %+v", *d)
		}
	case *network.EventRequestWillBeSent:
		if u := strings.TrimPrefix(e.Request.URL, "blob:"); !strings.HasPrefix(u, b.url) && u != "about:blank" {
			found = "it asks for " + e.Request.URL
		}
	}
	if found != "" {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.problems = append(b.problems, found)
	}
}

// do does what a person would.
func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%v; the page says:\n%s", err, b.text())
	}
}

// call gives the browser an order.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	r, err := chromedp.Call(ctx, command, params)
	if err != nil {
		b.t.Fatalf("%s: %v; the page says:\n%s", command.Method, err, b.text())
	}
	return r
}

// ask gives what an expression is on the page.
func ask[T any](b *browser, expression string, args ...any) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](fmt.Sprintf(expression, args...)))
	if err != nil {
		b.t.Fatalf("%s: %v; the page says:\n%s", fmt.Sprintf(expression, args...), err, b.text())
	}
	return v
}

// await waits until an expression is true on the page.
func (b *browser) await(expression string, args ...any) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !ask[bool](b, "Boolean("+expression+")", args...); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not even after %s: %s; the page says:\n%s", patience, fmt.Sprintf(expression, args...), b.text())
		}
	}
}

// text is what stands on the page.
func (b *browser) text() string {
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body ? document.body.innerText : ""`))
	if err != nil {
		return err.Error()
	}
	return text
}

// says waits until all of that stands on the page.
func (b *browser) says(words ...string) {
	b.t.Helper()
	for _, w := range words {
		b.await(`document.body.innerText.includes(%q)`, w)
	}
}

// drop drags files over that element of the page, and lets them go there.
func (b *browser) drop(selector string, files ...string) {
	b.t.Helper()
	b.do(chromedp.ScrollIntoView(chromedp.CSS(selector)))
	at := ask[[]float64](b, `(() => { const r = document.querySelector(%q).getBoundingClientRect();
		return [r.x + r.width / 2, r.y + r.height / 2] })()`, selector)
	for _, kind := range []input.DispatchDragEventType{
		input.DispatchDragEventTypeDragEnter, input.DispatchDragEventTypeDragOver, input.DispatchDragEventTypeDrop,
	} {
		call(b, input.DispatchDragEvent, input.DispatchDragEventParams{Type: kind, X: at[0], Y: at[1], Data: &input.DragData{
			Items: []*input.DragDataItem{}, Files: files, DragOperationsMask: 1,
		}})
	}
}

// throttle bounds what the page can send, in bytes a second; -1: as it comes.
func (b *browser) throttle(bytes float64) {
	b.t.Helper()
	call(b, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
		MatchedNetworkConditions: []*network.Conditions{{DownloadThroughput: -1, UploadThroughput: bytes}},
	})
}

// screenshot takes a picture, if somebody wants to see it: of the whole page,
// or of a dialog before it.
func (b *browser) screenshot(name string) {
	dir := os.Getenv(screenshotsEnv)
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	take := chromedp.FullScreenshot(100)
	const dialog = `document.querySelector("dialog[open]") !== null || scrollTo(0, 0) !== undefined`
	if open, err := chromedp.Run(ctx, chromedp.Evaluate[bool](dialog)); err == nil && open {
		take = chromedp.CaptureScreenshot()
	}
	png, err := chromedp.Run(ctx, take)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600)
	}
	if err != nil {
		b.t.Errorf("screenshot %s: %v", name, err)
	}
}
