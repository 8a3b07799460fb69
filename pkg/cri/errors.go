package cri

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/stagelet/stagelet/internal/errs"
)

// toStatus makes an error ready for gRPC: the code that its kind has, and its
// text, with the sentinel of k8s.io/cri-api/pkg/errors in front where there
// is one, since kubelet looks at the beginning of the message. Of errors of
// PullImage it sees the mere message only when their code is Unknown
// (cri-client, remoteImageService).
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, is := err.(interface{ GRPCStatus() *status.Status }); is {
		return err
	}
	text, code := err.Error(), codeOf(errs.KindOf(err))
	if errors.Is(err, crierrors.ErrRegistryUnavailable) || errors.Is(err, crierrors.ErrSignatureValidationFailed) {
		code = codes.Unknown
	}
	for _, sentinel := range []error{
		crierrors.ErrRegistryUnavailable,
		crierrors.ErrSignatureValidationFailed,
		crierrors.ErrRROUnsupported,
		crierrors.ErrImageVolumeMountFailed,
	} {
		if errors.Is(err, sentinel) && !strings.HasPrefix(text, sentinel.Error()) {
			text = sentinel.Error() + ": " + text
		}
	}
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return status.Error(code, text)
}

// codeOf is the whole table of kinds and codes.
func codeOf(k errs.Kind) codes.Code {
	switch k {
	case errs.Invalid:
		return codes.InvalidArgument
	case errs.NotFound:
		return codes.NotFound
	case errs.Exists:
		return codes.AlreadyExists
	case errs.Precondition:
		return codes.FailedPrecondition
	case errs.Unavailable:
		return codes.Unavailable
	case errs.Timeout:
		return codes.DeadlineExceeded
	case errs.Canceled:
		return codes.Canceled
	case errs.Corrupt:
		return codes.DataLoss
	case errs.Denied:
		return codes.PermissionDenied
	case errs.Unsupported:
		return codes.Unimplemented
	case errs.Exhausted:
		return codes.ResourceExhausted
	case errs.Internal:
	}
	return codes.Internal
}

// invalid says what is wrong with a field of a request, named as in api.proto.
func invalid(field, format string, args ...any) error {
	return errs.New("check", errs.Invalid, field, fmt.Errorf(format, args...))
}

// unsupported says that a field asks for what this node does not offer.
func unsupported(field, format string, args ...any) error {
	return errs.New("check", errs.Unsupported, field, fmt.Errorf(format, args...))
}

// tagged is an error that toStatus puts a sentinel in front of.
type tagged struct {
	error
	sentinel error
}

func (t tagged) Unwrap() []error { return []error{t.error, t.sentinel} }
