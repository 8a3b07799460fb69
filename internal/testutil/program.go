package testutil

import (
	"os"
	"syscall"
)

// WriteProgram writes a script that can be run at once. Nothing is forked
// meanwhile: until its exec a child would hold the file open for writing, and
// nobody could run it (ETXTBSY, execve(2)).
func WriteProgram(path, script string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(script), 0o755)
}
