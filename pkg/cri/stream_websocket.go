package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/stagelet/stagelet/internal/pipes"
)

// runner runs something with a client's streams.
type runner func(ctx context.Context, to pipes.Client, sizes <-chan remotecommand.TerminalSize) error

// serveWebSocket serves the version of the protocol in which a client can end
// its input, v5.channel.k8s.io (KEP-4006), which the library has for clients
// and not for servers.
func serveWebSocket(w http.ResponseWriter, r *http.Request, want wanted, run runner) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: want.channels()},
	})
	conn.SetIdleTimeout(streamIdle)
	_, channels, err := conn.Open(w, r)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Client began no stream", "err", err)
		return
	}
	defer conn.Close()
	sizes := make(chan remotecommand.TerminalSize)
	go readSizes(ctx, channels[remotecommand.StreamResize], sizes)
	to := want.of(channels[remotecommand.StreamStdIn], channels[remotecommand.StreamStdOut], channels[remotecommand.StreamStdErr])
	if data, err := json.Marshal(outcomeOf(run(ctx, to, sizes))); err == nil {
		_, _ = channels[remotecommand.StreamErr].Write(data)
	}
}

// channels gives the directions of the channels, by number.
func (w wanted) channels() []wsstream.ChannelType {
	all := make([]wsstream.ChannelType, remotecommand.StreamResize+1)
	for i := range all {
		all[i] = wsstream.IgnoreChannel
	}
	all[remotecommand.StreamErr], all[remotecommand.StreamResize] = wsstream.WriteChannel, wsstream.ReadChannel
	if w.stdin {
		all[remotecommand.StreamStdIn] = wsstream.ReadChannel
	}
	if w.stdout {
		all[remotecommand.StreamStdOut] = wsstream.WriteChannel
	}
	if w.stderr {
		all[remotecommand.StreamStdErr] = wsstream.WriteChannel
	}
	return all
}

// readSizes gives on what a client says of its terminal, until ctx ends.
func readSizes(ctx context.Context, from io.Reader, sizes chan<- remotecommand.TerminalSize) {
	defer close(sizes)
	for decoder := json.NewDecoder(from); ; {
		var size remotecommand.TerminalSize
		if decoder.Decode(&size) != nil {
			return
		}
		select {
		case sizes <- size:
		case <-ctx.Done():
			return
		}
	}
}

// outcome is how a stream ended: the part of a Status (Kubernetes API,
// meta/v1) that clients of version 4 and later look at.
type outcome struct {
	Status  string          `json:"status"`
	Message string          `json:"message,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	Details *outcomeDetails `json:"details,omitempty"`
	Code    int             `json:"code,omitempty"`
}

type outcomeDetails struct {
	Causes []outcomeCause `json:"causes"`
}

type outcomeCause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func outcomeOf(err error) outcome {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return outcome{Status: "Success"}
	case errors.As(err, &exit) && exit.Exited():
		cause := outcomeCause{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.ExitStatus())}
		return outcome{
			Status: "Failure", Message: err.Error(), Reason: remotecommand.NonZeroExitCodeReason,
			Details: &outcomeDetails{[]outcomeCause{cause}},
		}
	}
	return outcome{
		Status: "Failure", Message: fmt.Sprintf("Internal error occurred: %v", err),
		Reason: "InternalError", Code: http.StatusInternalServerError,
	}
}
