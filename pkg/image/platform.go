package image

import (
	"runtime"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// HostPlatform is what images must be made for to run here.
func HostPlatform() v1.Platform {
	p := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if p.Architecture == "arm" {
		p.Variant = "v7"
	}
	return normalize(p)
}

// variants lists, best first, what an architecture variant can run.
func variants(p v1.Platform) []string {
	switch p.Architecture + "/" + p.Variant {
	case "arm/v8":
		return []string{"v8", "v7", "v6", "v5"}
	case "arm/v7":
		return []string{"v7", "v6", "v5"}
	case "arm/v6":
		return []string{"v6", "v5"}
	case "amd64/v4":
		return []string{"v4", "v3", "v2", ""}
	case "amd64/v3":
		return []string{"v3", "v2", ""}
	case "amd64/v2":
		return []string{"v2", ""}
	default:
		return []string{p.Variant}
	}
}

// normalize gives the usual spellings of one platform the same form.
func normalize(p v1.Platform) v1.Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "v8" || p.Variant == "8"),
		p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// rank says how well offered runs on host: 0 is best, negative not at all.
func rank(host, offered v1.Platform) int {
	host, offered = normalize(host), normalize(offered)
	if offered.OS != host.OS || offered.Architecture != host.Architecture {
		return -1
	}
	for i, v := range variants(host) {
		if v == offered.Variant {
			return i
		}
	}
	return -1
}

// CheckPlatform checks that an image with that configuration runs on host. An
// image that doesn't say is taken at the word of whoever chose it.
func CheckPlatform(host v1.Platform, c *v1.Image) error {
	offered := c.Platform
	if offered.OS == "" {
		offered.OS = host.OS
	}
	if offered.Architecture == "" {
		return nil
	}
	if rank(host, offered) < 0 {
		return Refuse("select platform", NoPlatform, "image", "it is for %s, this machine is %s",
			PlatformString(offered), PlatformString(host))
	}
	return nil
}

// PlatformString gives "os/architecture[/variant]".
func PlatformString(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return Printable(s)
}

// Select picks, among the manifests that an index offers, the one for host.
// Manifests of something else than an image (attestations) don't count. One
// that says no platform is taken when it is the only one, or the only index:
// which platforms that is for stands in it.
func Select(host v1.Platform, offered []v1.Descriptor) (v1.Descriptor, error) {
	var usable []v1.Descriptor
	for _, d := range offered {
		if !isAttestation(d) {
			usable = append(usable, d)
		}
	}
	if len(usable) == 1 && usable[0].Platform == nil {
		return usable[0], nil
	}
	best, bestRank := v1.Descriptor{}, -1
	var names []string
	var within []v1.Descriptor
	for _, d := range usable {
		if d.Platform == nil {
			if IsIndex(d.MediaType) {
				within = append(within, d)
			}
			names = append(names, "one that says none")
			continue
		}
		names = append(names, PlatformString(*d.Platform))
		if r := rank(host, *d.Platform); r >= 0 && (bestRank < 0 || r < bestRank) {
			best, bestRank = d, r
		}
	}
	if bestRank < 0 && len(within) == 1 {
		return within[0], nil
	}
	if bestRank < 0 {
		list := "nothing"
		if len(names) > 0 {
			list = strings.Join(names, ", ")
		}
		return v1.Descriptor{}, Refuse("select platform", NoPlatform, "index", "this machine is %s, the index offers %s",
			PlatformString(host), list)
	}
	return best, nil
}

func isAttestation(d v1.Descriptor) bool {
	_, refers := d.Annotations["vnd.docker.reference.type"]
	return refers || d.ArtifactType != "" ||
		d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}
