package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const (
	op    = "ask registry"
	opWeb = "ask server"
)

// failure is why an endpoint did not give what it was asked for.
type failure struct {
	text  string
	cause error         // what errors.Is may find; may be nil
	dead  bool          // it did not answer: nothing else will be answered now
	again bool          // the same request may work soon
	after time.Duration // how long the endpoint asked us to wait
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

func (e *endpoint) fail(kind errs.Kind, f failure) error {
	return errs.New(e.op, kind, e.name, &f)
}

// explain says what an error of the HTTP client means. URLs are left out: one
// that a blob is redirected to is a key to it.
func (e *endpoint) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return errs.Wrap(e.op, e.name, cause)
	}
	var known *errs.Error // of the credentials
	if errors.As(err, &known) {
		return known
	}
	var refused *errcode.ErrorResponse // by the token service
	if errors.As(err, &refused) {
		text := "the token service answers " + statusText(refused.StatusCode, refused.Errors)
		if busy(refused.StatusCode) {
			return e.fail(errs.Unavailable, failure{text: text, again: true})
		}
		return e.fail(errs.Denied, failure{text: text}) // of the image it says nothing
	}
	var hop *hopError
	switch {
	case errors.As(err, &hop):
		return e.fail(errs.Denied, failure{text: hop.Error()})
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return e.fail(errs.Denied, failure{text: "it asks for credentials, and there are none for it"})
	}
	if f, ok := e.explainTLS(err); ok {
		return e.fail(errs.Unavailable, f)
	}
	var ue *url.Error
	var ne net.Error
	if errors.As(err, &ue) || errors.As(err, &ne) || isCut(err) {
		return e.fail(errs.Unavailable, explainNet(err))
	}
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // oras-go puts the URL before it
	}
	return e.fail(errs.Denied, failure{text: "authentication: " + plain(err.Error())})
}

// maxPlain bounds what is passed on of somebody else's words.
const maxPlain = 300

// plain gives text as it can stand in one line, whoever wrote it.
func plain(s string) string {
	if len(s) > maxPlain {
		s = s[:maxPlain] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// isCut says that a connection ended in the middle of something.
func isCut(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errStalled) || errors.Is(err, errSlow)
}

func explainNet(err error) failure {
	var ue *url.Error
	for errors.As(err, &ue) {
		err = ue.Err
	}
	var op *net.OpError
	dial := errors.As(err, &op) && op.Op == "dial"
	var ne net.Error
	timeout := errors.As(err, &ne) && ne.Timeout()
	f := failure{text: plain(err.Error()), cause: err, dead: dial || timeout, again: !dial && !timeout}
	if isCut(err) {
		f.text, f.again = "the connection broke: "+f.text, true
	}
	return f
}

// explainTLS knows what goes wrong before the first request.
func (e *endpoint) explainTLS(err error) (failure, bool) {
	var noTLS tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	var alert tls.AlertError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &noTLS), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		text := `it doesn't speak TLS; plain http has to be allowed by "http://" in its hosts.toml`
		if e.op == opWeb {
			text = "it doesn't speak TLS; for once, --insecure-options=http asks it without"
		}
		return failure{text: text, dead: true}, true
	case errors.As(err, &verify):
		return failure{text: "its certificate is not trusted: " + plain(verify.Err.Error()) + `; an authority of its own is named by "ca" in its hosts.toml`, cause: err, dead: true}, true
	case errors.As(err, &alert), errors.As(err, &invalid):
		return failure{text: "TLS: " + plain(err.Error()), cause: err, dead: true}, true
	}
	return failure{}, false
}

// maxErrorBody bounds what is read of an answer that says no, in bytes.
const maxErrorBody = 8 << 10

// refusal says what a status other than 200 and 206 means.
func (e *endpoint) refusal(resp *http.Response) error {
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	_ = json.Unmarshal(data, &body) // what is no JSON is no explanation
	return e.status(resp.StatusCode, "it answers "+statusText(resp.StatusCode, body.Errors), retryAfter(resp, time.Now()))
}

func (e *endpoint) status(code int, text string, after time.Duration) error {
	f := failure{text: text, after: after}
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return e.fail(errs.Denied, f)
	case code == http.StatusNotFound, code == http.StatusGone:
		return e.fail(errs.NotFound, f)
	case busy(code):
		f.again = true
		return e.fail(errs.Unavailable, f)
	case code == http.StatusNotImplemented, code == http.StatusMethodNotAllowed:
		return e.fail(errs.Unsupported, f)
	case code >= 400:
		return e.fail(errs.Invalid, f)
	}
	return image.Refuse(e.op, image.Mismatch, e.name, "%s, which was not asked for", text)
}

// busy says that the same request may be answered later.
func busy(code int) bool {
	return code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500 && code != http.StatusNotImplemented
}

func statusText(code int, all errcode.Errors) string {
	text := fmt.Sprintf("%d %s", code, http.StatusText(code))
	for i, err := range all {
		const enough = 3
		if i == enough {
			break
		}
		err.Detail = nil
		text += ", " + plain(err.Error())
	}
	return text
}
