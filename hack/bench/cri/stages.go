package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// phases holds how long each call of a name took.
type phases struct {
	mu    sync.Mutex
	names []string // in the order of their first call
	took  map[string][]time.Duration
}

func (p *phases) add(name string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.took == nil {
		p.took = map[string][]time.Duration{}
	}
	if p.took[name] == nil {
		p.names = append(p.names, name)
	}
	p.took[name] = append(p.took[name], d)
}

// quantile gives the q-th part (0 … 1) of the sorted times of a phase.
func (p *phases) quantile(name string, q float64) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Sorted(slices.Values(p.took[name]))
	if len(all) == 0 {
		return 0, false
	}
	return all[min(len(all)-1, int(q*float64(len(all))))], true
}

// do takes a pod through steps.
func (p *phases) do(ctx context.Context, pod *pod, steps []step) error {
	for _, s := range steps {
		begun := time.Now()
		if err := s.call(pod, ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", pod.config.Metadata.Name, s.name, err)
		}
		p.add(s.name, time.Since(begun))
	}
	return nil
}

// The names of sums of phases.
const (
	podReady  = "= run pod to first output"
	wholeLife = "= whole life"
)

// warmUp runs one pod that is not counted.
func (t *target) warmUp(ctx context.Context) error {
	p, err := t.newPod("warm-up")
	if err != nil {
		return err
	}
	return (&phases{}).do(ctx, p, slices.Concat(up, down))
}

// onePod measures a pod that is alone.
func (t *target) onePod(ctx context.Context, i int) error {
	p, err := t.newPod(fmt.Sprintf("alone-%d", i))
	if err != nil {
		return err
	}
	before, begun := t.cpu(), time.Now()
	if err := t.alone.do(ctx, p, up[:4]); err != nil {
		return err
	}
	t.alone.add(podReady, time.Since(begun))
	if err := t.alone.do(ctx, p, slices.Concat(up[4:], down)); err != nil {
		return err
	}
	t.alone.add(wholeLife, time.Since(begun))
	t.alone.add(cpuOfLife, t.cpu()-before)
	return nil
}

// manyPods has many pods at the same time.
func (t *target) manyPods(ctx context.Context) error {
	o := t.options
	pods := make([]*pod, o.crowd)
	for i := range pods {
		var err error
		if pods[i], err = t.newPod(fmt.Sprintf("crowd-%d", i)); err != nil {
			return err
		}
	}
	time.Sleep(o.settle)
	memory := t.memory()
	if err := t.stage(ctx, "up", pods, func(p *pod) error {
		begun := time.Now()
		if err := t.crowd.do(ctx, p, up[:4]); err != nil {
			return err
		}
		t.crowd.add(podReady, time.Since(begun))
		return t.crowd.do(ctx, p, up[4:])
	}); err != nil {
		return err
	}
	time.Sleep(o.settle)
	t.costs = append(t.costs, t.memory().since(memory, o.crowd)...)
	idle, begun := t.cpu(), time.Now()
	time.Sleep(2 * o.settle)
	t.costs = append(t.costs, cost{"idle CPU with all pods, cores", (t.cpu() - idle).Seconds() / time.Since(begun).Seconds()})
	return t.stage(ctx, "down", pods, func(p *pod) error { return t.crowd.do(ctx, p, down) })
}

// stage does something with all pods, several at a time, and notes its rate
// and its CPU time.
func (t *target) stage(ctx context.Context, name string, pods []*pod, do func(*pod) error) error {
	cpu, begun := t.cpu(), time.Now()
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	next := make(chan *pod)
	for range t.options.parallel {
		wg.Go(func() {
			for p := range next {
				if err := do(p); err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, p := range pods {
		if ctx.Err() == nil {
			next <- p
		}
	}
	close(next)
	wg.Wait()
	n := float64(len(pods))
	t.costs = append(t.costs,
		cost{"pods/s " + name, n / time.Since(begun).Seconds()},
		cost{"CPU ms a pod, " + name, 1000 * (t.cpu() - cpu).Seconds() / n})
	return errors.Join(failed, ctx.Err())
}
