// Package cli tests the commands as people type them: each script of testdata
// has a host of its own, on which the built program runs as root, with the
// kernel's namespaces, runc and CNI.
//
// In a script, besides testscript's own words (exec, stdout, stderr, stdin,
// cmp, exists, …):
//
//	stagelet ARGS           the program; "! stagelet ARGS" must not succeed
//	exitcode N CMD ARGS     CMD must end with exit code N
//	eventually RE CMD ARGS  CMD is run until its standard output matches RE
//	json PATH RE            what PATH names in the last JSON output matches RE:
//	                        0/apps/0/name; len is the length of a list
//	capture VAR [PATH]      VAR becomes the last output, or what PATH names in it
//	serve [FLAGS]           starts a server; "serve stop" ends it, "serve kill"
//	                        does with SIGKILL
//	kubelet run VAR NAME S  runs a pod with an app main, script S, as kubelet does;
//	                        VAR is its id. "kubelet rm ID" removes it, as nobody
//	                        else does
//	busybox FILE NAME       writes the archive of an image; $BUSYBOX is one, of
//	                        localhost/stagelet/busybox:latest
//	sites [FILE]            serves web/HOST/PATH as https://HOST/PATH, for any HOST;
//	                        writes what was asked for into FILE
//	pgpkey VAR USER FILE    makes an OpenPGP key; VAR is its fingerprint, FILE has it
//	sign FINGERPRINT FILES  signs each, into FILE.asc
//	push HOST REPO TAG      makes HOST of the sites a registry, with busybox
//	aci FILE MANIFEST …     makes an ACI of a manifest with busybox, or with the
//	                        paths and contents that follow
//
// "exec stagelet ARGS &" runs it in the background. $HOST is the directory of
// all that is the host's: root in lib, trust, config.yaml, server.log.
// At the end of each script its pods are killed, and nothing may be left.
package cli

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/host"
)

func TestScripts(t *testing.T) {
	cni := testutil.NeedCNI(t)
	testutil.NeedRunc(t)
	testutil.NeedBusybox(t)
	bin := testutil.Binaries(t)
	image := writeBusybox(t)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			h, err := host.New(env.T().(testing.TB), bin, cni, "")
			if err != nil {
				return err
			}
			env.Values[hostKey{}] = h
			for _, key := range []any{sitesKey{}, gpgKey{}} {
				env.Values[key] = &lazy{t: env.T().(testing.TB)}
			}
			env.Setenv("HOST", h.Dir)
			env.Setenv("BUSYBOX", image)
			env.Setenv("PATH", h.Path("bin")+":"+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"stagelet": cmdStagelet, "exitcode": cmdExitCode, "eventually": cmdEventually,
			"json": cmdJSON, "capture": cmdCapture, "serve": cmdServe, "busybox": cmdBusybox, "kubelet": cmdKubelet,
			"sites": cmdSites, "pgpkey": cmdPGPKey, "sign": cmdSign, "aci": cmdACI, "push": cmdPush,
		},
	})
}
