package trust

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// containersPolicy is a policy of containers-policy.json(5). Of its transports
// "docker" alone speaks of registries.
type containersPolicy struct {
	fallback []requirement
	scopes   map[string][]requirement
}

// containersPolicy gives the policy that was configured.
func (p *Policy) containersPolicy() (*containersPolicy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.containers.get(p.o.PolicyJSON, parseContainersPolicy)
}

func parseContainersPolicy(data []byte) (*containersPolicy, error) {
	var doc struct {
		Default    []json.RawMessage                       `json:"default"`
		Transports map[string]map[string][]json.RawMessage `json:"transports"`
	}
	if err := decodeStrict("policy", data, &doc); err != nil {
		return nil, err
	}
	c := &containersPolicy{scopes: map[string][]requirement{}}
	var err error
	if c.fallback, err = parseRequirements("default", doc.Default); err != nil {
		return nil, err
	}
	for scope, list := range doc.Transports["docker"] {
		if c.scopes[scope], err = parseRequirements("scope "+image.Printable(scope), list); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// decodeStrict reads JSON that may have no field twice, and none that nobody
// here knows: it might forbid something.
func decodeStrict(what string, data []byte, v any) error {
	var whole json.RawMessage
	if err := image.DecodeDocument(what, data, &whole); err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return errs.New("parse", errs.Invalid, what, err)
	}
	return nil
}

// requirements gives those of the most specific scope, and of it alone.
func (c *containersPolicy) requirements(ref image.Ref) []requirement {
	scopes := ancestors(ref)
	for i := len(scopes) - 1; i >= 0; i-- {
		if r, there := c.scopes[string(scopes[i])]; there {
			return r
		}
	}
	host := ref.Registry()
	for i := strings.IndexByte(host, '.'); i >= 0; i = strings.IndexByte(host, '.') {
		host = host[i+1:]
		if r, there := c.scopes["*."+host]; there {
			return r
		}
	}
	if r, there := c.scopes[""]; there {
		return r
	}
	return c.fallback
}

// parseRequirements reads a list: every element has to be satisfied, and there
// has to be one.
func parseRequirements(where string, list []json.RawMessage) ([]requirement, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no requirement: to accept nothing, say \"reject\"", where)
	}
	var all []requirement
	for i, data := range list {
		r, err := parseRequirement(data)
		if err != nil {
			return nil, fmt.Errorf("%s, requirement %d: %w", where, i+1, err)
		}
		r.where = fmt.Sprintf("policy.json, %s", where)
		for _, rule := range r.rules {
			rule.where = r.where
		}
		all = append(all, r)
	}
	return all, nil
}

func parseRequirement(data []byte) (requirement, error) {
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return requirement{}, err
	}
	switch kind.Type {
	case "insecureAcceptAnything", "reject":
		if err := decodeStrict("requirement", data, &kind); err != nil {
			return requirement{}, err
		}
		if kind.Type == "reject" {
			return requirement{reject: true}, nil
		}
		return requirement{rules: []*rule{{}}}, nil
	case "signedBy":
		return parseSignedBy(data)
	case "sigstoreSigned":
		return parseSigstoreSigned(data)
	}
	return requirement{}, fmt.Errorf("type %s is not known", image.Printable(kind.Type))
}
