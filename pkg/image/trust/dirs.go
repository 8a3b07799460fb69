package trust

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// The directories of rules, below each directory of Options.Dirs:
//
//	root.d/<name>             for every image
//	prefix.d/<prefix>/<name>  for the images below a prefix
//	namespace.d/<namespace>/{root.d,prefix.d/<prefix>}/<name>
//	                          for what one Kubernetes namespace asks for
//	sigstore/trusted_root.json
//
// A file hides those of the same path in the directories after its own, and
// in a namespace also those that hold everywhere; an empty file does nothing
// but hide.
const (
	rootDir      = "root.d"
	prefixDir    = "prefix.d"
	namespaceDir = "namespace.d"
	rootFile     = "sigstore/trusted_root.json"
)

// maxRuleFile bounds a rule or key file, in bytes.
const maxRuleFile = 1 << 20

// ruleFiles are the directories of rules, with what was read from them. A
// file is read again when it changed.
type ruleFiles struct {
	dirs []string

	mu    sync.Mutex
	known map[string]*knownFile // by path
}

type knownFile struct {
	stamp stamp
	rule  *rule // nil: an empty file
	err   error
}

// stamp changes whenever the content of a file may have.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino, s.mtime, s.ctime = st.Dev, st.Ino, st.Mtim, st.Ctim
	}
	return s
}

// rules gives the rules for ref, those of the registry and of all below it; of
// none, those for everything. A file or directory that can't be read is an
// error: nobody knows what it would have allowed or hidden.
func (f *ruleFiles) rules(ref image.Ref, scope Scope) ([]*rule, error) {
	layers, err := f.layers(scope)
	if err != nil {
		return nil, err
	}
	below := []string{rootDir}
	if !ref.IsZero() {
		for _, p := range ancestors(ref) {
			below = append(below, filepath.Join(prefixDir, string(p)))
		}
	}
	var all []*rule
	for _, dir := range below {
		files, err := effective(layers, dir)
		if err != nil {
			return nil, err
		}
		for _, path := range files {
			r, err := f.read(path)
			if err != nil {
				return nil, err
			}
			if r != nil {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// layers gives the directories that hold for scope, the strongest first.
func (f *ruleFiles) layers(scope Scope) ([]string, error) {
	if scope.Namespace == "" {
		return f.dirs, nil
	}
	if !isName(scope.Namespace) {
		return nil, errs.New(opVerify, errs.Invalid, image.Printable(scope.Namespace), errors.New("not the name of a namespace"))
	}
	layers := make([]string, 0, 2*len(f.dirs))
	for _, d := range f.dirs {
		layers = append(layers, filepath.Join(d, namespaceDir, scope.Namespace))
	}
	return append(layers, f.dirs...), nil
}

// isName says that s is one harmless element of a path.
func isName(s string) bool {
	return s != "" && len(s) <= image.MaxName && !strings.HasPrefix(s, ".") && !strings.ContainsAny(s, "/\x00")
}

// effective gives the files of dir, below layers, that no other one hides.
func effective(layers []string, dir string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, layer := range layers {
		names, err := ruleNames(filepath.Join(layer, dir))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				files = append(files, filepath.Join(layer, dir, name))
			}
		}
	}
	return files, nil
}

// ruleNames lists the rule files in dir, none when it isn't there.
func ruleNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, badFile(dir, err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") { // unfinished writes, and what a ConfigMap volume keeps
			continue
		}
		if !isFile(filepath.Join(dir, e.Name()), e) {
			continue
		}
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

// isFile says that an entry is no directory. A link that leads nowhere is a
// file: one that can't be read.
func isFile(path string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return !e.IsDir()
	}
	info, err := os.Stat(path)
	return err != nil || !info.IsDir()
}

// read gives the rule in a file; nil for an empty one, which only hides.
func (f *ruleFiles) read(path string) (*rule, error) {
	data, s, err := readSmall(path, func(s stamp) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		known := f.known[path]
		return known != nil && known.stamp == s
	})
	if err != nil {
		return nil, badFile(path, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.known[path]; known != nil && known.stamp == s {
		return known.rule, known.err
	}
	r := &knownFile{stamp: s}
	if len(data) > 0 {
		if r.rule, r.err = parseRule(filepath.Base(path), data); r.err != nil {
			r.err = badFile(path, r.err)
		} else {
			r.rule.where = path
		}
	}
	if f.known == nil {
		f.known = map[string]*knownFile{}
	}
	f.known[path] = r
	return r.rule, r.err
}

// readSmall reads a regular file, unless it is known.
func readSmall(path string, known func(stamp) bool) ([]byte, stamp, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold us up
	if err != nil {
		return nil, stamp{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, stamp{}, errors.New("not a regular file")
	}
	s := stampOf(info)
	if known != nil && known(s) {
		return nil, s, nil
	}
	data, err := io.ReadAll(io.LimitReader(file, maxRuleFile+1))
	if err != nil {
		return nil, s, err
	}
	if len(data) > maxRuleFile {
		return nil, s, image.Refuse("read", image.TooLarge, path, "more than %d bytes", maxRuleFile)
	}
	return data, s, nil
}

// first gives the path of a file in the first of the directories that has it;
// "" when none has, or the first one hides it.
func (f *ruleFiles) first(name string) (string, error) {
	for _, d := range f.dirs {
		path := filepath.Join(d, name)
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", badFile(path, err)
		case info.Size() == 0:
			return "", nil
		}
		return path, nil
	}
	return "", nil
}
