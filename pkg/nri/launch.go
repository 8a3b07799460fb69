package nri

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/containerd/nri/pkg/api"
	nrinet "github.com/containerd/nri/pkg/net"

	"github.com/stagelet/stagelet/internal/errs"
)

// maxConfig bounds the configuration of a plugin, in bytes: it goes in one
// message.
const maxConfig = 1 << 20

// launchAll starts every executable of PluginDir, and waits until each has
// joined or was given up.
func (p *Plugins) launchAll() error {
	entries, err := os.ReadDir(p.PluginDir)
	if p.PluginDir == "" || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, e := range entries {
		fi, err := os.Stat(filepath.Join(p.PluginDir, e.Name()))
		if err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
			continue
		}
		all.Go(func() {
			if err := p.launch(e.Name()); err != nil {
				p.Warn(errs.Wrap("start", e.Name(), err), "take in an installed NRI plugin")
			}
		})
	}
	all.Wait()
	return nil
}

// launch starts one program, which finds its connection at descriptor 3. It
// ends with the connection, at the latest by force.
func (p *Plugins) launch(name string) error {
	index, base, err := api.ParsePluginName(name)
	if err != nil {
		return errs.New("name", errs.Invalid, "", err)
	}
	config, err := p.configOf(index, base)
	if err != nil {
		return err
	}
	pair, err := nrinet.NewSocketPair()
	if err != nil {
		return err
	}
	defer pair.Close()
	conn, err := pair.LocalConn()
	if err != nil {
		return err
	}
	pl, err := p.connect(conn)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	pl.installed, pl.index, pl.base, pl.config = true, index, base, config

	cmd := exec.CommandContext(p.alive, filepath.Join(p.PluginDir, name))
	cmd.ExtraFiles = []*os.File{pair.PeerFile()}
	cmd.Env = []string{
		api.PluginNameEnvVar + "=" + base, api.PluginIdxEnvVar + "=" + index, api.PluginSocketEnvVar + "=3",
		"PATH=" + os.Getenv("PATH"),
	}
	if err := cmd.Start(); err != nil {
		pl.drop()
		return err
	}
	pair.PeerClose() // it is the program's alone, and ends with it
	p.tasks.Go(func() {
		<-pl.gone
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return pl.enrol(p.alive)
}

// configOf reads a plugin's configuration: <index>-<name>.conf, else
// <name>.conf, else none.
func (p *Plugins) configOf(index, base string) (string, error) {
	for _, name := range []string{index + "-" + base + ".conf", base + ".conf"} {
		f, err := os.Open(filepath.Join(p.ConfigDir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
		_ = f.Close()
		if err == nil && len(data) > maxConfig {
			err = errs.New("read configuration", errs.Exhausted, name, fmt.Errorf("it is larger than %d bytes", maxConfig))
		}
		return string(data), err
	}
	return "", nil
}
