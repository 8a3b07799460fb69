package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// What is kept of a pod, in <CacheDir>/attachments/<pod id>:
//
//	attachment.json  what ADD was, or will be, called with: written before it
//	results/         libcni's own cache: the result, written after it
//
// The directory carries the pod's lock. From the moment it exists until it is
// gone, the pod may have something on the host; DEL takes that back with
// nothing but this directory, or nothing but the manifest.Network of the pod.
const kindAttachment = "cni-attachment"

// attachment is a pod on a network, as plugins were told. Every later command
// must tell them the same (CNI specification, "CHECK").
type attachment struct {
	ContainerID  string          `json:"containerID"`
	NetNS        string          `json:"netns"`
	Network      string          `json:"network"`
	Interface    string          `json:"interface"`
	Config       []byte          `json:"config"`
	Args         [][2]string     `json:"args"`
	Capabilities json.RawMessage `json:"capabilities,omitempty"`
	// Result is only known from a manifest.Network; libcni's cache has it too.
	Result []byte `json:"-"`
}

// attachment describes adding p to the network of list.
func (p Pod) attachment(list *libcni.NetworkConfigList, capabilities json.RawMessage) attachment {
	return attachment{
		ContainerID:  p.ID,
		NetNS:        p.NetNS,
		Network:      list.Name,
		Interface:    Interface,
		Config:       list.Bytes,
		Args:         p.args(),
		Capabilities: capabilities,
	}
}

// attached gives back what Add returned.
func (p Pod) attached(net *manifest.Network) []attachment {
	var all []attachment
	for _, a := range net.Attachments {
		all = append(all, attachment{
			ContainerID:  p.ID,
			NetNS:        net.NetNS,
			Network:      a.Network,
			Interface:    a.Interface,
			Config:       a.Config,
			Args:         p.args(),
			Capabilities: a.Capabilities,
			Result:       a.Result,
		})
	}
	return all
}

// args are the CNI_ARGS that plugins made for Kubernetes read.
func (p Pod) args() [][2]string {
	return [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", p.Namespace},
		{"K8S_POD_NAME", p.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", p.ID},
		{"K8S_POD_UID", p.UID},
	}
}

// validate keeps out what would change the meaning of paths and variables.
func (p Pod) validate() error {
	if err := utils.ValidateContainerID(p.ID); err != nil {
		return err
	}
	for _, v := range []string{p.Name, p.Namespace, p.UID} {
		if strings.ContainsAny(v, ";=\x00\n") || len(v) > 1024 {
			return fmt.Errorf("%.40q can't be told to network plugins", v)
		}
	}
	return nil
}

// conf gives the two things that libcni wants.
func (a attachment) conf() (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(a.Config)
	if err != nil {
		return nil, nil, errs.New("read stored configuration", errs.Corrupt, a.Network, err)
	}
	capabilities := map[string]any{}
	if len(a.Capabilities) > 0 {
		if err := json.Unmarshal(a.Capabilities, &capabilities); err != nil {
			return nil, nil, errs.New("read stored capability arguments", errs.Corrupt, a.Network, err)
		}
	}
	return list, &libcni.RuntimeConf{
		ContainerID:    a.ContainerID,
		NetNS:          a.NetNS,
		IfName:         a.Interface,
		Args:           a.Args,
		CapabilityArgs: capabilities,
	}, nil
}

func (n *Network) attachmentsDir() string      { return filepath.Join(n.opts.CacheDir, "attachments") }
func (n *Network) podDir(id string) string     { return filepath.Join(n.attachmentsDir(), id) }
func (n *Network) recordFile(id string) string { return filepath.Join(n.podDir(id), "attachment.json") }

func (n *Network) makeDirs() error { return os.MkdirAll(n.attachmentsDir(), 0o700) }

// writeRecord comes before the first plugin is told of the pod. It is durable
// no sooner than the host's next sync: after a power cut the interfaces are
// gone, and what IPAM plugins keep on disk was written after this.
func (n *Network) writeRecord(a attachment) error {
	crash.Point("network.record.write")
	err := atomicfile.WriteRecord(n.recordFile(a.ContainerID), kindAttachment, a)
	crash.Point("network.record.written")
	return err
}

// readRecord gives what ADD was called with for the pod; nothing when it never
// was. A record that a power cut tore is replaced by what is in force now:
// the id alone lets most plugins find what they keep for the pod.
func (n *Network) readRecord(p Pod) ([]attachment, error) {
	var a attachment
	_, err := atomicfile.ReadRecord(n.recordFile(p.ID), kindAttachment, &a)
	if err == nil && a.ContainerID != p.ID {
		err = errs.New("read record", errs.Corrupt, n.recordFile(p.ID), errors.New("it is of another pod"))
	}
	switch {
	case err == nil:
		return []attachment{a}, nil
	case errors.Is(err, errs.NotFound):
		return nil, nil
	case errors.Is(err, errs.Corrupt):
		if c := n.configs.current.Load(); c.list != nil {
			return []attachment{p.attachment(c.list, nil)}, nil
		}
		return nil, nil
	}
	return nil, err
}

// cni gives libcni with the cache of one pod.
func (n *Network) cni(id string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(n.opts.BinDirs, n.podDir(id), &runner{})
}

// restoreCache puts the result of ADD where libcni looks for it: it hands it
// to plugins as prevResult with CHECK and DEL, and takes it from its cache
// alone. The format is libcni's, kind "cniCacheV1".
func (n *Network) restoreCache(a attachment) error {
	if len(a.Result) == 0 {
		return nil
	}
	data, err := json.Marshal(map[string]any{
		"kind":           libcni.CNICacheV1,
		"containerId":    a.ContainerID,
		"config":         a.Config,
		"ifName":         a.Interface,
		"networkName":    a.Network,
		"netns":          a.NetNS,
		"cniArgs":        a.Args,
		"capabilityArgs": a.Capabilities,
		"result":         json.RawMessage(a.Result),
	})
	if err != nil {
		return errs.New("read stored result", errs.Corrupt, a.Network, err)
	}
	dir := filepath.Join(n.podDir(a.ContainerID), "results")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, fmt.Sprintf("%s-%s-%s", a.Network, a.ContainerID, a.Interface)), data, 0o600)
}

// forget drops all that is kept of a pod. The caller holds its lock.
func (n *Network) forget(id string) error {
	crash.Point("network.forget")
	// The record goes last but for the directory: while it is there, GC comes back.
	if err := os.RemoveAll(filepath.Join(n.podDir(id), "results")); err != nil {
		return err
	}
	if err := os.RemoveAll(n.podDir(id)); err != nil {
		return err
	}
	crash.Point("network.forgotten")
	n.mine.Delete(id)
	return nil
}

// known lists the pods of which something is kept.
func (n *Network) known() ([]string, error) {
	entries, err := os.ReadDir(n.attachmentsDir())
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && utils.ValidateContainerID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}
