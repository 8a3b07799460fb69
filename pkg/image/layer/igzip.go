package layer

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// igzipName is the program of ISA-L that, where it is installed, decompresses
// in a third of the CPU time that Go takes.
const igzipName = "igzip"

// minIgzip is the size of a blob from which on a process of its own is worth
// its start, in bytes.
const minIgzip = 1 << 20

// errPacked is what igzip says of everything that it doesn't like.
var errPacked = errors.New("gzip: its data is damaged, ends too early, or is followed by garbage")

// igzip reads what a process decompresses. It believes the process nothing:
// who reads it bounds and hashes what comes, as with any other decompressor.
//
// The process ends well when garbage follows the data. So a member of our own
// follows the blob, the seal, which holds a random number: unless that comes
// out last, the process didn't decompress all of the blob.
type igzip struct {
	ctx   context.Context //nolint:containedctx // of the process's whole life
	cmd   *exec.Cmd
	out   *os.File
	seal  []byte
	fed   chan struct{} // closed once nothing is written to the process any more
	ended error         // how the process did; nil: not yet

	held  []byte // the last of what came out: the seal, perhaps
	small [2 * sealBytes]byte
}

// sealBytes is how long the number in a seal is.
const sealBytes = 16

// startIgzip starts the program at path on what is packed in src; it is killed
// when ctx ends. Close needs the reads of src to end.
func startIgzip(ctx context.Context, path string, src io.WriterTo) (_ *igzip, err error) {
	in, feed, err := sys.LargePipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, w, err := sys.LargePipe()
	if err != nil {
		return nil, errors.Join(err, feed.Close())
	}
	defer w.Close()
	z := &igzip{ctx: ctx, out: out, seal: make([]byte, sealBytes), fed: make(chan struct{})}
	_, _ = rand.Read(z.seal) // never fails
	z.cmd = exec.CommandContext(ctx, path, "-d", "-c")
	z.cmd.Env, z.cmd.Dir = []string{}, "/"
	z.cmd.Stdin, z.cmd.Stdout = in, w
	// An interrupt from the terminal is for us to handle.
	z.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		z.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	if err := z.cmd.Start(); err != nil {
		return nil, errors.Join(err, feed.Close(), out.Close())
	}
	go z.feed(feed, src)
	return z, nil
}

// nobody is who has no rights on files.
const nobody = 65534

func (z *igzip) feed(w *os.File, src io.WriterTo) {
	defer close(z.fed)
	if _, err := src.WriteTo(w); err == nil {
		_, _ = w.Write(sealMember(z.seal))
	}
	_ = w.Close()
}

// sealMember makes a gzip member of number (RFC 1952, RFC 1951 section 3.2.4).
// Its header is of unknown length, lest the end of a blob takes it for a part
// of its own.
func sealMember(number []byte) []byte {
	var length [2]byte
	_, _ = rand.Read(length[:])
	extra := make([]byte, binary.LittleEndian.Uint16(length[:]))
	_, _ = rand.Read(extra)
	const hasExtra, unknownOS, lastStored = 4, 255, 1
	m := []byte{0x1f, 0x8b, 8, hasExtra, 0, 0, 0, 0, 0, unknownOS, length[0], length[1]}
	m = append(append(m, extra...), lastStored)
	m = binary.LittleEndian.AppendUint16(m, uint16(len(number)))
	m = binary.LittleEndian.AppendUint16(m, ^uint16(len(number)))
	m = append(m, number...)
	m = binary.LittleEndian.AppendUint32(m, crc32.ChecksumIEEE(number))
	return binary.LittleEndian.AppendUint32(m, uint32(len(number)))
}

// Read gives what comes out but the seal, which could be the last of it.
func (z *igzip) Read(p []byte) (int, error) {
	buf := p
	if len(p) <= sealBytes {
		buf = z.small[:len(p)+sealBytes]
	}
	at := copy(buf, z.held)
	n, err := z.out.Read(buf[at:])
	at += n
	free := max(at-sealBytes, 0)
	z.held = append(z.held[:0], buf[free:at]...)
	if len(p) <= sealBytes {
		copy(p, buf[:free])
	}
	if errors.Is(err, io.EOF) {
		if z.ended == nil {
			z.ended = z.finish()
		}
		err = z.ended
	}
	return free, err
}

// finish says how it ended; io.EOF when well.
func (z *igzip) finish() error {
	const op = "decompress"
	err := z.cmd.Wait()
	status, _ := z.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case err == nil && bytes.Equal(z.held, z.seal):
		return io.EOF
	case z.ctx.Err() != nil:
		return errs.Wrap(op, z.cmd.Path, z.ctx.Err())
	case status.Signaled():
		return errs.New(op, errs.Unavailable, z.cmd.Path, fmt.Errorf("it was killed: %w", err))
	default:
		return errPacked
	}
}

// close ends the process, wherever it is.
func (z *igzip) close() {
	if z.ended == nil {
		_ = z.cmd.Process.Kill()
		_ = z.cmd.Wait()
	}
	<-z.fed
	_ = z.out.Close()
}
