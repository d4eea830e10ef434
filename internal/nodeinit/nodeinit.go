// Package nodeinit is the first process of a diskless node: it runs from the
// initramfs, brings up the network, attaches and mounts the root, lays memory
// and layers over it, and hands the machine to the distribution's own init. A
// second process, the keeper, stays behind and keeps the root's connection and
// the address's lease alive for as long as the node runs.
//
// It ships to every node, so it stays small: no server, no state, no template.
// It takes its orders from the kernel command line alone (package handoff), and
// it never just stops: every step says what it did and how long it took, a step
// that fails says why and is tried again, and with rd.shell there is a shell.
package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"netroot/internal/handoff"
)

// newRoot is where the root is put together before it is switched to.
const newRoot = "/sysroot"

// node is the state of one boot.
type node struct {
	log     *console
	boot    handoff.Boot
	modules *loader
	net     *netConfig
	device  string   // block device that the packed root is on; an NFS root has none
	server  string   // that an NFS root is at, an address
	history []string // what each step said, for the rescue shell
	guest   bool     // another initramfs has the machine, and a shell: see Dracut
}

// step is one part of the boot. It returns what there is to tell about it, and
// may be run again after it failed.
type step struct {
	name string
	run  func(context.Context) (string, error)
}

// Boot runs the boot as process 1 and returns only when even the fallback,
// a restart of the machine, failed.
func Boot() error {
	log := openConsole()
	defer func() {
		if r := recover(); r != nil {
			log.fail("init", fmt.Errorf("panic: %v", r))
			restart(log, 30*time.Second)
		}
	}()
	n := &node{log: log}
	err := n.run(context.Background())
	log.fail("init", err)
	restart(log, 30*time.Second)
	return err
}

func (n *node) run(ctx context.Context) error {
	started := time.Now()
	if err := mountEarly(); err != nil {
		return err
	}
	n.log.begin()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if n.boot, err = handoff.Parse(string(line)); err != nil {
		return err
	}
	n.log.debug = n.boot.Debug
	for _, s := range []step{
		{"modules", n.loadModules},
		{"network", n.bringUpNetwork},
		{"attach", n.attachRoot},
		{"mount", n.mountRoot},
		{"layers", n.applyLayers},
		{"identity", n.settle},
	} {
		if err := n.try(ctx, s); err != nil {
			return err
		}
	}
	if n.boot.Break {
		n.rescue("rd.break")
	}
	init, err := findInit(n.boot.Init)
	if err != nil {
		return n.try(ctx, step{"switch", func(context.Context) (string, error) { return "", err }})
	}
	n.log.say("switch", fmt.Sprintf("to %s, %.2f s after start", init, time.Since(started).Seconds()))
	return switchRoot(n.log, init)
}

// try runs one step until it succeeds. Between two tries it offers the rescue
// shell where that is asked for, and else waits, longer each time, up to 30 s.
// Only the administrator ends it.
func (n *node) try(ctx context.Context, s step) error {
	for attempt := 0; ; attempt++ {
		started := time.Now()
		said, err := s.run(ctx)
		took := time.Since(started)
		switch {
		case err == nil && said == "":
			return nil
		case err == nil:
			n.note(s.name, fmt.Sprintf("%s (%.2f s)", said, took.Seconds()))
			return nil
		}
		n.report(s.name, err)
		if n.boot.Shell && n.guest {
			return err
		}
		if n.boot.Shell {
			n.rescue(s.name + " failed; \"retry\" tries it again")
			continue
		}
		pause := backoff(attempt)
		n.log.say(s.name, fmt.Sprintf("trying again in %s (rd.shell on the kernel command line gives a shell here)", pause))
		wait(ctx, pause)
	}
}

func (n *node) note(name, text string) {
	n.history = append(n.history, name+": "+text)
	n.log.say(name, text)
}

// report tells of something that went wrong, whether or not the boot goes on.
func (n *node) report(name string, err error) {
	n.history = append(n.history, name+": FAILED: "+err.Error())
	n.log.fail(name, err)
}

// backoff is the pause after the given number of earlier failures: 1 s, 2 s,
// 4 s and so on to 30 s.
func backoff(attempt int) time.Duration {
	return min(time.Second<<min(attempt, 5), 30*time.Second)
}

// wait blocks for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// poll asks until the answer is yes, an error, or the limit has passed.
func poll(ctx context.Context, limit time.Duration, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		ok, err := ask()
		if ok || err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: nothing after %s", what, limit)
		}
		wait(ctx, pause)
	}
}

// findInit returns the program that takes over, as a path inside the new root.
func findInit(asked string) (string, error) {
	candidates := []string{"/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init", "/bin/init", "/bin/sh"}
	if asked != "" {
		candidates = []string{asked}
	}
	for _, c := range candidates {
		if executableIn(newRoot, c) {
			return c, nil
		}
	}
	if asked != "" {
		return "", fmt.Errorf("init=%s is not in the root", asked)
	}
	return "", errors.New("the root has no init: none of " + strings.Join(candidates, " "))
}
