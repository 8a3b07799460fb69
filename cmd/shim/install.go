package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/trustedkeys"
)

//go:embed stagelet.service.in
var unitTemplate string

func installCommand(s *settings) *cobra.Command {
	i := &installation{}
	c := &cobra.Command{
		Use:   "install",
		Short: "Install this program on the host",
		Long: `Install this program and its supervisor, a systemd unit, the directories that
they work in, and the rules that come with Stagelet. What is there already as it
should be stays; it can be run again at any time, after an upgrade too: pods that
run go on with the supervisor that they were made with. Each path is printed, with
what was done to it. Configuration is never touched.`,
		Example: `  stagelet install --dry-run
  stagelet install --prefix /usr && systemctl enable --now stagelet`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			i.out = c.OutOrStdout()
			return i.run(config)
		},
	}
	c.Flags().StringVar(&i.prefix, "prefix", "/usr/local", "directory below which programs and the unit go")
	c.Flags().StringVar(&i.dest, "destdir", "", "directory that stands for the root of the host, for those who make packages")
	c.Flags().BoolVar(&i.dry, "dry-run", false, "only print what would be done")
	return c
}

// installation is what the flags of "install" say.
type installation struct {
	prefix, dest string
	dry          bool
	out          io.Writer
}

func (i *installation) run(c *config) error {
	const op = "install"
	if !filepath.IsAbs(i.prefix) {
		return errs.New(op, errs.Invalid, "--prefix", fmt.Errorf("%q is not an absolute path", i.prefix))
	}
	steps := []func() error{
		func() error { return i.directory(filepath.Dir(defaultConfigPath), 0o755) },
		// Root of a user namespace is nobody here, and has to pass.
		func() error { return i.directory(c.Root, 0o711) },
		func() error { return i.programs(c) },
		func() error {
			unit := strings.ReplaceAll(unitTemplate, "@PREFIX@", i.prefix)
			return i.file(filepath.Join(i.prefix, "lib/systemd/system/stagelet.service"), []byte(unit), 0o644)
		},
		i.rules,
	}
	for _, dir := range c.Trust.Dirs[:min(1, len(c.Trust.Dirs))] { // the administrator's
		steps = append(steps, func() error { return i.directory(dir, 0o755) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return errs.Wrap(op, "", err)
		}
	}
	return nil
}

// programs copies this program and the supervisor.
func (i *installation) programs(c *config) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	supervisor, err := supervisorProgram(c.Stage1.Supervisor)
	if err != nil {
		return err
	}
	for name, from := range map[string]string{"stagelet": self, supervisorName: supervisor} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := i.file(filepath.Join(i.prefix, "bin", name), data, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// rules writes the rules that come with this program.
func (i *installation) rules() error {
	return fs.WalkDir(trustedkeys.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := trustedkeys.Files.ReadFile(name)
		if err != nil {
			return err
		}
		return i.file(path.Join(trust.SystemDir, name), data, 0o644)
	})
}

// directory makes a directory; one that is there stays as it is.
func (i *installation) directory(at string, mode os.FileMode) error {
	at = filepath.Join(i.dest, at)
	switch fi, err := os.Stat(at); {
	case err == nil && !fi.IsDir():
		return errs.New("make directory", errs.Exists, at, errors.New("it is no directory"))
	case err == nil:
		i.tell("kept", at)
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case i.dry:
		i.tell("would make", at)
		return nil
	}
	if err := os.MkdirAll(at, mode); err != nil {
		return err
	}
	i.tell("made", at)
	return os.Chmod(at, mode) // whatever the umask
}

// file writes a file, unless it is there just so.
func (i *installation) file(at string, data []byte, mode os.FileMode) error {
	at = filepath.Join(i.dest, at)
	if fi, err := os.Stat(at); err == nil && fi.Mode() == mode {
		if now, err := os.ReadFile(at); err == nil && bytes.Equal(now, data) {
			i.tell("kept", at)
			return nil
		}
	}
	if i.dry {
		i.tell("would write", at)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := atomicfile.WriteDurable(at, data, mode); err != nil {
		return err
	}
	i.tell("wrote", at)
	return nil
}

func (i *installation) tell(what, path string) { fmt.Fprintf(i.out, "%-11s %s\n", what, path) }
