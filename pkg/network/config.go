package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	maxConfFile = 1 << 20 // bytes
	// writing is how long an unusable file counts as being written: as long
	// as it does, it holds its place, and what was in force stays in force.
	writing = 2 * time.Second
)

// config is one reading of the configuration directory. It is never changed.
type config struct {
	list    *libcni.NetworkConfigList // nil: no network
	source  string                    // the file it came from, "" for the built-in one
	builtin *builtin                  // set when it is the built-in one
	problem string                    // why list is nil, when a file is not the reason
	skipped []string                  // "file: why", in the order of the files
}

func (c *config) equal(o *config) bool {
	if o == nil || (c.list == nil) != (o.list == nil) || c.source != o.source || c.problem != o.problem || !slices.Equal(c.skipped, o.skipped) {
		return false
	}
	return c.list == nil || bytes.Equal(c.list.Bytes, o.list.Bytes)
}

// readConfDir takes the first usable file of dir in the order of names, as
// kubelet and its runtimes always did. Hidden files are temporary ones.
func readConfDir(dir string, now time.Time) (c *config, settled bool) {
	c = &config{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.problem = fmt.Sprintf("%s can't be read: %v", dir, plainError(err))
		return c, true
	}
	for _, e := range entries {
		if !isConfName(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		list, modified, err := readConfFile(path)
		switch {
		case errors.Is(err, os.ErrNotExist): // removed meanwhile, or a link to nowhere
			c.skipped = append(c.skipped, e.Name()+": leads to no file")
		case err != nil && !modified.IsZero() && now.Sub(modified).Abs() < writing:
			c.problem = path + " is being written"
			return c, false
		case err != nil:
			c.skipped = append(c.skipped, fmt.Sprintf("%s: %v", e.Name(), plainError(err)))
		default:
			c.list, c.source = list, path
			return c, true
		}
	}
	return c, true
}

func isConfName(name string) bool {
	switch filepath.Ext(name) {
	case ".conflist", ".conf", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

// readConfFile also tells when the file was last written, where it is one.
func readConfFile(path string) (*libcni.NetworkConfigList, time.Time, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	if !fi.Mode().IsRegular() {
		return nil, time.Time{}, errors.New("is not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfFile+1))
	if err != nil {
		return nil, fi.ModTime(), err
	}
	if len(data) > maxConfFile {
		return nil, time.Time{}, fmt.Errorf("is larger than %d bytes", maxConfFile)
	}
	list, err := parseConf(data, filepath.Ext(path) == ".conflist", filepath.Dir(path))
	return list, fi.ModTime(), err
}

// parseConf reads one configuration: a list of plugins, or the older form of
// a single one. dir is where a list may have more plugins, below its name
// (CNI specification 1.1, "loadOnlyInlinedPlugins").
func parseConf(data []byte, isList bool, dir string) (*libcni.NetworkConfigList, error) {
	if !isList {
		var err error
		if data, err = listOfOne(data); err != nil {
			return nil, err
		}
	}
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	if nerr := utils.ValidateNetworkName(list.Name); nerr != nil {
		return nil, nerr
	}
	if err := supportedVersion(list.CNIVersion); err != nil {
		return nil, err
	}
	if list.LoadOnlyInlinedPlugins {
		return list, nil
	}
	return withPluginsOf(dir, list)
}

// listOfOne makes a list of a single plugin's configuration.
func listOfOne(data []byte) ([]byte, error) {
	one, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		var list struct{ Plugins []json.RawMessage }
		if json.Unmarshal(data, &list) == nil && len(list.Plugins) > 0 {
			return nil, errors.New("is a list of plugins: give its name the ending .conflist")
		}
		return nil, err
	}
	return json.Marshal(map[string]any{
		"cniVersion": one.Network.CNIVersion,
		"name":       one.Network.Name,
		"plugins":    []json.RawMessage{data},
	})
}

func supportedVersion(v string) error {
	if v == "" {
		return nil // 0.1.0 or 0.2.0, as the specification says
	}
	if _, _, _, err := version.ParseVersion(v); err != nil {
		return fmt.Errorf("cniVersion %q: %w", v, err)
	}
	if newer, err := version.GreaterThan(v, version.Current()); err != nil || newer {
		return fmt.Errorf("cniVersion %s is newer than %s, the newest known here", v, version.Current())
	}
	return nil
}

// withPluginsOf adds the plugins that lie in a directory named after the
// network. The bytes of the list then hold them too: they alone are kept for
// the time when the pod goes.
func withPluginsOf(dir string, list *libcni.NetworkConfigList) (*libcni.NetworkConfigList, error) {
	more, err := libcni.NetworkPluginConfsFromFiles(dir, list.Name)
	if err != nil {
		return nil, err
	}
	if len(list.Plugins)+len(more) == 0 {
		return nil, errors.New("it names no plugin")
	}
	if len(more) == 0 {
		return list, nil
	}
	var plugins []json.RawMessage
	for _, p := range append(slices.Clip(list.Plugins), more...) {
		plugins = append(plugins, p.Bytes)
	}
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(list.Bytes, &whole); err != nil {
		return nil, err
	}
	for key, value := range map[string]any{"plugins": plugins, "loadOnlyInlinedPlugins": true} {
		if whole[key], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(data)
}

// plainError drops the path from an error whose text names it already.
func plainError(err error) error {
	var perr *os.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}
