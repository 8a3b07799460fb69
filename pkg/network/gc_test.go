package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
)

func TestGCOfPodsThatAreNoMore(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	f := newFixture(t, nil)
	f.script("good", good)
	f.conf("10.conflist", conflist("n", "1.1.0", "good"))
	kept, lost, torn := f.pod("kept"), f.pod("lost"), f.pod("torn")
	for _, p := range []Pod{kept, lost, torn} {
		f.add(p)
	}
	if err := os.WriteFile(f.recordFile(torn.ID), []byte(`{"kind":"cni-att`), 0o600); err != nil {
		t.Fatal(err)
	}
	live := func() ([]string, error) { return []string{kept.ID, "hostless"}, nil }
	if err := f.GC(context.Background(), func() ([]string, error) { return nil, errs.Corrupt }); !errors.Is(err, errs.Corrupt) {
		t.Errorf("GC that can't know what lives: %v", err)
	}
	if err := f.GC(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	log := f.logged()
	for _, id := range []string{lost.ID, torn.ID} {
		if strings.Count(log, "DEL netns") != 2 || !strings.Contains(log, "K8S_POD_INFRA_CONTAINER_ID="+id) {
			t.Errorf("%s was not deleted: %s", id, log)
		}
	}
	verb := log[strings.LastIndex(log, "GC netns="):]
	for _, id := range []string{kept.ID, "hostless"} {
		if !strings.Contains(verb, fmt.Sprintf(`{"containerID":%q,"ifname":"eth0"}`, id)) {
			t.Errorf("GC verb lacks %s: %s", id, verb)
		}
	}
	if strings.Contains(verb, lost.ID) || strings.Contains(verb, torn.ID) {
		t.Errorf("GC verb: %s", verb)
	}
	if ids, _ := f.known(); len(ids) != 1 || ids[0] != kept.ID {
		t.Errorf("known: %v", ids)
	}
	f.del(kept, nil)
	f.nothingKept()
}

// The verb waits for no ADD, and no ADD that begins meanwhile loses.
func TestGCVerbAndAddKeepApart(t *testing.T) {
	testutil.NeedRoot(t)
	f := newFixture(t, nil)
	f.script("slow", `echo "$CNI_COMMAND" >> $log; test "$CNI_COMMAND" = ADD || exit 0; until test -e $log.go; do sleep 0.02; done; echo '`+oneResult+`'`)
	f.conf("10.conflist", conflist("n", "1.1.0", "slow"))
	p := f.pod("p1")
	done := make(chan error)
	go func() {
		_, err := f.Add(context.Background(), p)
		done <- err
	}()
	eventually(t, "ADD runs", func() bool { return f.logged() != "" })
	if err := f.GC(context.Background(), func() ([]string, error) { return []string{p.ID}, nil }); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(f.logged(), "GC") {
		t.Error("the verb ran beside ADD")
	}
	f.mark(".go")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := f.GC(context.Background(), func() ([]string, error) { return []string{p.ID}, nil }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.logged(), "GC") {
		t.Error("the verb never ran")
	}
	f.del(p, nil)
}
