// Package trustedkeys is the rules and keys that are installed with Stagelet:
// whose images run without anybody having said so, and what proves sigstore's
// certificates.
package trustedkeys

import "embed"

// Files has them, by their paths below the system's directory of rules.
//
//go:embed prefix.d sigstore
var Files embed.FS
