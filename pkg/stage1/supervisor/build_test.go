package supervisor_test

import (
	"fmt"
	"os"
	"os/exec"
)

func buildSupervisor(path string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "github.com/stagelet/stagelet/cmd/stage1")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build supervisor: %w\n%s", err, out)
	}
	return nil
}
