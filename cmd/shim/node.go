package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/network"
	"github.com/stagelet/stagelet/pkg/nri"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/stage1"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// node is the engine with its parts.
type node struct {
	engine  *stage0.Engine
	images  *store.Store
	network *network.Network
}

// openNode wires the engine as configured. It changes nothing but to make
// directories.
func openNode(c *config) (*node, error) { return openNodeWith(c, switches{}) }

// openNodeWith is openNode without the safeguards that are off.
func openNodeWith(c *config, off switches) (_ *node, err error) {
	images, err := openImagesWith(c, off)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = images.Close()
		}
	}()
	net, err := network.New(network.Options{
		ConfDir: c.Network.ConfDir, BinDirs: c.Network.BinDirs,
		CacheDir: filepath.Join(c.Root, "cni"),
		Default:  networkDefault(c.Network.Default),
		Bridge:   network.Bridge{Name: c.Network.Bridge, CIDR: c.Network.CIDR},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = net.Close()
		}
	}()
	pins, err := stage1.OpenPins(filepath.Join(c.Root, "stage1"))
	if err != nil {
		return nil, err
	}
	flavors, err := openFlavors(c, pins)
	if err != nil {
		return nil, err
	}
	ulimits, err := ocispec.ParseUlimits(c.Ulimits)
	if err != nil {
		return nil, err
	}
	engine, err := stage0.New(stage0.Options{
		Root: c.Root, Run: c.Run, NetNSDir: c.Network.NetNSDir, CDIDirs: c.cdiDirs, Ulimits: ulimits,
		Images: images, Find: finder(registryClient(c, off)), Network: net, Flavors: flavors, Pins: pins,
		CgroupManager: c.Cgroup.driver(),
		Plugins:       openPlugins(c), Warn: warn,
	})
	if err != nil {
		return nil, err
	}
	return &node{engine: engine, images: images, network: net}, nil
}

// warn logs what goes wrong in the background.
func warn(err error, what string) { klog.ErrorS(err, "Could not "+what) }

// openPlugins gives the node's NRI plugins, as configured; nil: none.
func openPlugins(c *config) *nri.Plugins {
	if c.NRI.Socket == "" {
		return nil
	}
	return nri.New(nri.Options{
		Socket: c.NRI.Socket, PluginDir: nri.PluginDir, ConfigDir: nri.ConfigDir, Version: version(), Warn: warn,
	})
}

func (n *node) close() error {
	n.engine.Close()
	return errors.Join(n.network.Close(), n.images.Close())
}

func networkDefault(configured string) string {
	if configured == "bridge" {
		return network.DefaultBridge
	}
	return ""
}

func openFlavors(c *config, pins *stage1.Pins) (*stage1.Registry, error) {
	supervisor, err := supervisorProgram(c.Stage1.Supervisor)
	if err != nil {
		return nil, err
	}
	handlers := map[string]stage1.Flavor{"": stage1.Namespaces(supervisor, c.Stage1.Runtime, c.Stage1.Args)}
	for name, h := range c.Handlers {
		handlers[name] = stage1.Namespaces(supervisor, h.Runtime, h.Args)
	}
	return stage1.NewRegistry(pins, handlers)
}

const supervisorName = "stagelet-stage1"

// supervisorProgram finds the supervisor: as configured, beside this program,
// where packages put it, in PATH.
func supervisorProgram(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", errs.Wrap("find supervisor", "", err)
	}
	for _, path := range []string{filepath.Join(filepath.Dir(self), supervisorName), "/usr/libexec/stagelet/" + supervisorName, supervisorName} {
		if found, err := exec.LookPath(path); err == nil {
			return found, nil
		}
	}
	return "", errs.New("find supervisor", errs.NotFound, supervisorName,
		errors.New("neither beside this program nor in /usr/libexec/stagelet nor in PATH; name it with --supervisor"))
}
