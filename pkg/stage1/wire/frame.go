package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/stagelet/stagelet/internal/errs"
)

// headerSize is the length in front of a frame, in bytes.
const headerSize = 4

// chunk bounds what is allocated for a frame ahead of the bytes that fill it.
const chunk = 64 << 10

// A Sender sends all of b, and files with its first byte; sys.Conn is one.
type Sender interface {
	Send(b []byte, files ...*os.File) error
}

// A Receiver gives at most limit bytes of what has come, waiting for the
// first, with the descriptors that came with them; io.EOF at the end. sys.Conn
// is one.
type Receiver interface {
	Recv(limit int) (b []byte, files []*os.File, err error)
}

// Send sends v as one frame, with files.
func Send(c Sender, v any, files ...*os.File) error {
	frame, err := Frame(v)
	if err != nil {
		return err
	}
	return SendFrame(c, frame, files...)
}

// SendFrame sends what Frame made.
func SendFrame(c Sender, frame []byte, files ...*os.File) error {
	const op = "send frame"
	if len(files) > MaxDescriptors {
		return errs.New(op, errs.Invalid, "", fmt.Errorf("%d descriptors, at most %d can travel", len(files), MaxDescriptors))
	}
	return errs.Wrap(op, "", c.Send(frame, files...))
}

// Frame gives v as it travels.
func Frame(v any) ([]byte, error) {
	const op = "encode frame"
	body, err := json.Marshal(v)
	if err != nil {
		return nil, errs.New(op, errs.Invalid, "", err)
	}
	if len(body) > MaxFrame {
		return nil, errs.New(op, errs.Exhausted, "", fmt.Errorf("%d bytes, at most %d can travel", len(body), MaxFrame))
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, headerSize+len(body)), uint32(len(body)))
	return append(frame, body...), nil
}

// Recv receives one frame into v, and gives the descriptors that came with
// it, which are the caller's to close. A stream that ends before a frame
// begins is io.EOF; what is no frame of v's form is errs.Corrupt.
func Recv(c Receiver, v any) ([]*os.File, error) {
	const op = "receive frame"
	r := frameReader{from: c}
	body, err := r.frame()
	if err == nil {
		err = json.Unmarshal(body, v)
		if err != nil {
			err = errs.New(op, errs.Corrupt, "", err)
		}
	}
	if err != nil {
		closeAll(r.files)
		return nil, err
	}
	return r.files, nil
}

type frameReader struct {
	from  Receiver
	files []*os.File
}

func (r *frameReader) frame() ([]byte, error) {
	const op = "receive frame"
	header, err := r.read(nil, headerSize)
	if err != nil {
		if errors.Is(err, io.EOF) && len(header) == 0 {
			return nil, io.EOF
		}
		return nil, truncated(err)
	}
	length := binary.BigEndian.Uint32(header)
	if length > MaxFrame {
		return nil, errs.New(op, errs.Corrupt, "", fmt.Errorf("%d bytes are announced, at most %d can travel", length, MaxFrame))
	}
	body, err := r.read(nil, int(length))
	if err != nil {
		return nil, truncated(err)
	}
	return body, nil
}

// read appends n bytes to b.
func (r *frameReader) read(b []byte, n int) ([]byte, error) {
	for len(b) < n {
		got, files, err := r.from.Recv(min(n-len(b), chunk))
		r.files = append(r.files, files...)
		if err == nil && len(r.files) > MaxDescriptors {
			err = errs.New("receive frame", errs.Corrupt, "", fmt.Errorf("more than %d descriptors came", MaxDescriptors))
		}
		if err != nil {
			return b, err
		}
		if b == nil && len(got) == n {
			return got, nil
		}
		b = append(b, got...)
	}
	return b, nil
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return errs.New("receive frame", errs.Corrupt, "", io.ErrUnexpectedEOF)
	}
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
