package sys

import (
	"path/filepath"
	"slices"
	"strings"
)

// Find gives the paths of all cgroups of that name (the last element of a
// path), wherever they are.
func (c Cgroups) Find(name string) ([]string, error) {
	var found []string
	for _, mount := range c.processMounts() {
		err := walkCgroup(mount, func(dir string) error {
			if filepath.Base(dir) != name {
				return nil
			}
			if path := strings.TrimPrefix(dir, mount); !slices.Contains(found, path) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
