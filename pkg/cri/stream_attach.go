package cri

import (
	"context"
	"io"
	"net/http"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// attachment is an app to be joined.
type attachment struct {
	app  string
	want wanted
}

func (a attachment) serve(s *streams, w http.ResponseWriter, r *http.Request) {
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		serveWebSocket(w, r, a.want, func(ctx context.Context, to pipes.Client, sizes <-chan remotecommand.TerminalSize) error {
			return a.run(ctx, s.verbs, to, sizes)
		})
		return
	}
	remotecommand.ServeAttach(w, r, attacher{s.verbs, a}, "", "", a.app, a.want.options(),
		streamIdle, s.creation, remotecommand.SupportedStreamingProtocols)
}

// attacher is the library's view of an attachment.
type attacher struct {
	verbs      streamVerbs
	attachment attachment
}

// AttachContainer is remotecommand.Attacher's.
func (a attacher) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, _ bool, sizes <-chan remotecommand.TerminalSize) error {
	return a.attachment.run(ctx, a.verbs, a.attachment.want.of(in, out, errOut), sizes)
}

// run joins the app's streams until the app or ctx ends.
func (a attachment) run(ctx context.Context, verbs streamVerbs, to pipes.Client, sizes <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := pipes.Join(to)
	if err != nil {
		return errs.Wrap("attach to", a.app, err)
	}
	defer p.Close()
	if a.want.tty && sizes != nil {
		go resize(ctx, verbs, a.app, "", sizes)
	}
	err = verbs.Attach(ctx, a.app, stage0.AttachRequest{Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr})
	p.Drain(ctx)
	return unlessHungUp(ctx, err)
}
