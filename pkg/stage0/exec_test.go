package stage0

import (
	"errors"
	"testing"
)

func TestExitCodesOfCommandsThatDontRun(t *testing.T) {
	for words, code := range map[string]int{
		`exec: "x": executable file not found in $PATH`:        127,
		`stat /x: no such file or directory`:                   127,
		`exec /x: permission denied`:                           126,
		`exec /x: exec format error`:                           126,
		"executable file `x` not found in $PATH: No such file": 127,
	} {
		if got := CommandExitCode(errors.New(words)); got != code {
			t.Errorf("%s: %d, not %d", words, got, code)
		}
	}
}
