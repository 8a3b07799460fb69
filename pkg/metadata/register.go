package metadata

import (
	"crypto/rand"
	"encoding/hex"
	"net"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// Port is where apps reach the service, in the network namespace of a pod that
// has one to itself.
const Port = 18112

// URLVariable tells apps where the service is, beside AC_APP_NAME, by which
// they ask (ace.md, "Execution Environment").
const URLVariable = "AC_METADATA_URL"

// Register makes a plan's pod one that the service answers, and tells its
// apps. On the host's network the port is one that is free now.
func Register(plan *stage0.Plan) error {
	token := make([]byte, 32)
	_, _ = rand.Read(token) // it never fails
	m := &manifest.Metadata{Port: Port, Token: hex.EncodeToString(token)}
	if plan.Pod.Namespaces.Network == manifest.NamespaceHost {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it doesn't wait
		if err != nil {
			return errs.Wrap("find a port for the metadata service", "", err)
		}
		m.Port = uint16(l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // of a TCP listener
		if err := l.Close(); err != nil {
			return err
		}
	}
	plan.Pod.Metadata = m
	for _, apps := range [][]stage0.AppRequest{plan.Init, plan.Apps} {
		for i := range apps {
			apps[i].Env = append(apps[i].Env, "AC_APP_NAME="+apps[i].App.Name, URLVariable+"="+url(m))
		}
	}
	return nil
}
