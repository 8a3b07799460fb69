package testutil

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// Whatever else is started at the same time, a program runs that was written.
func TestProgramsRunAtOnce(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 25 {
				path := filepath.Join(dir, strconv.Itoa(i)+"-"+strconv.Itoa(j))
				if err := WriteProgram(path, "#!/bin/sh\n"); err != nil {
					t.Error(err)
				}
				if out, err := exec.Command(path).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			}
		})
	}
	all.Wait()
}
