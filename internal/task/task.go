// Package task runs the long-running parts of a daemon: in stages, each of which starts when all
// tasks of the one before it are ready, and ends after those that follow it.
//
// It restarts nothing: a task that fails ends the whole group, and what supervises the process
// starts it again.
package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Task is one long-running part.
type Task struct {
	Name string // a noun for logs and status: "http", "nbd"
	// Run runs the task until ctx ends and then returns nil. It calls ready when the task does what
	// it is for: a server, when its listener accepts. Further calls do nothing.
	Run func(ctx context.Context, ready func()) error
}

// State is what a task does at a moment.
type State string

// The states of a task, in their order.
const (
	Waiting  State = "waiting" // for the tasks of the stages before its own
	Starting State = "starting"
	Ready    State = "ready"
	Ended    State = "ended"
	Failed   State = "failed"
)

// Status is one task's state.
type Status struct {
	Name  string    `json:"name"`
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"`
	Error string    `json:"error,omitempty"`
}

// Stage has the tasks that start together and end together.
type Stage []Task

// Group is the tasks of one daemon.
type Group struct {
	stages []Stage
	ready  chan struct{}

	mu     sync.Mutex
	status map[string]*Status
	order  []string
}

// NewGroup returns a group of stages in the order of their start. Names are unique; a second task
// of a name is an error of the caller, and NewGroup panics.
func NewGroup(stages ...Stage) *Group {
	g := &Group{stages: stages, ready: make(chan struct{}), status: make(map[string]*Status)}
	for _, s := range stages {
		for _, t := range s {
			if g.status[t.Name] != nil {
				panic("task: two tasks are called " + t.Name)
			}
			g.status[t.Name] = &Status{Name: t.Name, State: Waiting}
			g.order = append(g.order, t.Name)
		}
	}
	return g
}

// Ready is closed when every task is ready.
func (g *Group) Ready() <-chan struct{} { return g.ready }

// IsReady reports whether every task is ready at this moment.
func (g *Group) IsReady() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.status {
		if s.State != Ready {
			return false
		}
	}
	return true
}

// Status returns the state of every task, in the order of their start.
func (g *Group) Status() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]Status, 0, len(g.order))
	for _, name := range g.order {
		all = append(all, *g.status[name])
	}
	return all
}

func (g *Group) set(name string, state State, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.status[name]
	s.State, s.Since = state, time.Now()
	if err != nil {
		s.Error = err.Error()
	}
}

// running is a stage that was started.
type running struct {
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// Run starts the stages one after the other and runs them until ctx ends or a task fails or
// returns. Then it ends the stages in the reverse order and waits for each. It returns the errors
// of the tasks, each with the task's name; nil when ctx ended and every task returned nil. A Group
// runs once.
func (g *Group) Run(ctx context.Context) error {
	var (
		mu     sync.Mutex
		failed []error
	)
	over, end := context.WithCancel(ctx) // ctx has ended, or a task has
	defer end()
	record := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, err)
	}
	var started []*running
	for _, stage := range g.stages {
		if over.Err() != nil {
			break
		}
		// A stage ends when its turn comes, so it does not end with ctx.
		stageCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := &running{cancel: cancel}
		started = append(started, r)
		var pending []chan struct{}
		for _, t := range stage {
			ready := make(chan struct{})
			pending = append(pending, ready)
			r.tasks.Go(func() {
				defer end()
				if err := g.run(stageCtx, t, func() { close(ready) }); err != nil {
					record(err)
				}
			})
		}
		for _, ready := range pending {
			select {
			case <-ready:
			case <-over.Done():
			}
		}
	}
	if over.Err() == nil {
		close(g.ready)
	}
	<-over.Done()
	for i := len(started) - 1; i >= 0; i-- {
		started[i].cancel()
		started[i].tasks.Wait()
	}
	return errors.Join(failed...)
}

// run leads one task to its end.
func (g *Group) run(ctx context.Context, t Task, ready func()) error {
	g.set(t.Name, Starting, nil)
	err := t.Run(ctx, sync.OnceFunc(func() {
		g.set(t.Name, Ready, nil)
		ready()
	}))
	if err == nil && ctx.Err() == nil {
		err = errors.New("ended before it was told to")
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", t.Name, err)
		g.set(t.Name, Failed, err)
		return err
	}
	g.set(t.Name, Ended, nil)
	return nil
}
