package spool

import "io"

// Progress of one layer of an import.
type Progress struct {
	Image       string // as it is to be called
	Layer       int    // lowest is 0
	Done, Total int64  // bytes as they lie in the file
}

// Meter gives a reader that tells how much of r was read; at says of what.
func Meter(r io.Reader, at Progress, tell func(Progress)) io.Reader {
	if tell == nil {
		return r
	}
	return &meter{r: r, tell: tell, at: at}
}

// meter tells how much was read.
type meter struct {
	r    io.Reader
	tell func(Progress)
	at   Progress
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.at.Done += int64(n)
		m.tell(m.at)
	}
	return n, err
}
