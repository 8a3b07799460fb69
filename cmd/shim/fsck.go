package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func fsckCommand(s *settings) *cobra.Command {
	var output form
	c := &cobra.Command{
		Use:   "fsck",
		Short: "Check pods and images on disk, and the server's view of them",
		Long: `Name everything on disk that is not as it should be, and every difference
between the disk and what a running server lists. Nothing is changed; most of
what it finds, stagelet gc mends. The exit code is 1 when there are problems.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			problems, err := fsck(c.Context(), config)
			if err != nil {
				return err
			}
			if err := writeList(c.OutOrStdout(), output, problemRows(problems), problemTable); err != nil || len(problems) == 0 {
				return err
			}
			count := fmt.Sprintf("%d problems", len(problems))
			if len(problems) == 1 {
				count = "1 problem"
			}
			return errs.New("fsck", errs.Corrupt, "", errors.New(count+"; stagelet gc mends what processes that died left behind"))
		},
	}
	outputFlag(c, &output)
	return c
}

// problemRow is one thing that is not as it should be.
type problemRow struct {
	Subject string `json:"subject"` // a path, or what it is and its id
	Problem string `json:"problem"`
}

func problemRows(problems []error) []problemRow {
	rows := make([]problemRow, len(problems))
	for i, p := range problems {
		rows[i].Problem = p.Error()
		var e *errs.Error
		if errors.As(p, &e) && e.Err != nil {
			rows[i] = problemRow{e.Subject, e.Err.Error()}
		}
	}
	slices.SortFunc(rows, func(a, b problemRow) int {
		return cmp.Or(strings.Compare(a.Subject, b.Subject), strings.Compare(a.Problem, b.Problem))
	})
	return rows
}

func problemTable(w io.Writer, rows []problemRow) {
	if len(rows) == 0 {
		fmt.Fprintln(w, "no problems")
		return
	}
	fmt.Fprintln(w, "SUBJECT\tPROBLEM")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\n", r.Subject, r.Problem)
	}
}

func fsck(ctx context.Context, c *config) (problems []error, err error) {
	n, err := openNode(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if problems, err = n.engine.Fsck(ctx); err != nil {
		return nil, err
	}
	more, err := fsckServer(ctx, n, c.socket())
	return append(problems, more...), err
}

// fsckServer compares what a running server lists with the disk. No server is
// no problem.
func fsckServer(ctx context.Context, n *node, socket string) ([]error, error) {
	if _, err := os.Lstat(socket); err != nil {
		return nil, nil
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, errs.Wrap("ask server", socket, err)
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	pods, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, nil // the socket of a server that is gone
	}
	apps, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, errs.Wrap("ask server", socket, err)
	}
	listed := map[string]string{}
	for _, p := range pods.GetItems() {
		listed["pod "+p.GetId()] = p.GetState().String()
	}
	for _, a := range apps.GetContainers() {
		listed["app "+a.GetId()] = a.GetState().String()
	}
	onDisk, err := stored(n)
	if err != nil {
		return nil, err
	}
	return differences(listed, onDisk), nil
}

// stored gives the pods and apps of kubelet on disk, in the words of CRI.
func stored(n *node) (map[string]string, error) {
	states := map[manifest.AppState]runtimeapi.ContainerState{
		manifest.AppCreated: runtimeapi.ContainerState_CONTAINER_CREATED,
		manifest.AppRunning: runtimeapi.ContainerState_CONTAINER_RUNNING,
		manifest.AppExited:  runtimeapi.ContainerState_CONTAINER_EXITED,
		manifest.AppUnknown: runtimeapi.ContainerState_CONTAINER_UNKNOWN,
	}
	pods, err := n.engine.PodsOnDisk()
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, p := range pods {
		if p.Pod.Creator != manifest.CreatorCRI {
			continue
		}
		state := runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		if p.Ready() {
			state = runtimeapi.PodSandboxState_SANDBOX_READY
		}
		found["pod "+p.Pod.ID] = state.String()
		for _, a := range p.Apps {
			found["app "+a.ID] = states[a.Status.State].String()
		}
	}
	return found, nil
}

func differences(listed, onDisk map[string]string) (problems []error) {
	for what, state := range onDisk {
		if listed[what] != state {
			problems = append(problems, errs.New("fsck", errs.Corrupt, what, fmt.Errorf("is %s on disk, the server lists %q", state, listed[what])))
		}
	}
	for what, state := range listed {
		if _, ok := onDisk[what]; !ok {
			problems = append(problems, errs.New("fsck", errs.Corrupt, what, fmt.Errorf("the server lists it as %s, it is not on disk", state)))
		}
	}
	return problems
}
