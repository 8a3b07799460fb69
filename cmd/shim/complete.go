package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/pkg/image/store"
)

// completeArgs lets shells complete what the usage of a command names: pods
// and images.
func completeArgs(root *cobra.Command, s *settings) {
	each(root, func(c *cobra.Command) {
		switch {
		case c.ValidArgsFunction != nil:
		case strings.Contains(c.Use, "POD"):
			c.ValidArgsFunction = completePods(s)
		case strings.Contains(c.Use, "IMAGE"):
			c.ValidArgsFunction = completeImages(s)
		case !strings.Contains(c.Use, "FILE"):
			c.ValidArgsFunction = cobra.NoFileCompletions
		}
	})
}

// completePods gives the ids of pods, with their names and states. What can't
// be found out is nothing to complete with.
func completePods(s *settings) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, begin string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
		err := withPods(c.Context(), s, func(n *node) error {
			for _, p := range n.pods() {
				if strings.HasPrefix(p.Pod.ID, begin) {
					found = append(found, cobra.CompletionWithDesc(p.Pod.ID, strings.TrimSpace(p.Pod.Name+" "+string(p.State))))
				}
			}
			return nil
		})
		return found, directive(err)
	}
}

// completeImages gives the names of images, and files: some commands take
// those too.
func completeImages(s *settings) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, begin string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
		err := withImages(s, func(images *store.Store) error {
			records, err := images.List()
			for _, r := range records {
				for _, name := range slices.Concat(r.Tags, []string{string(r.ID)}) {
					if strings.HasPrefix(name, begin) {
						found = append(found, name)
					}
				}
			}
			return err
		})
		if err == nil {
			return found, cobra.ShellCompDirectiveDefault
		}
		return found, directive(err)
	}
}

func directive(err error) cobra.ShellCompDirective {
	if err != nil {
		return cobra.ShellCompDirectiveError
	}
	return cobra.ShellCompDirectiveNoFileComp
}
