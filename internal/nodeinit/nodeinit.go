// Package nodeinit is the first process of a diskless node: it runs from the initramfs, brings up
// the network, attaches and mounts the root, puts memory and layers over it, and hands the machine
// to the distribution's own init. Its steps are here, in their order; package network, package
// attach and package devices do the work of three of them, and package keeper is the process that
// stays.
//
// It ships to every node, so it stays small: it is not a server, keeps no state and has no
// templates. Its orders are the kernel command line alone (package handoff). It never stops
// silently: each step reports what it did and how long it took (package report), and a step that
// fails says why and is tried again. If the root cannot be attached for minutes, or its layers
// cannot be fetched, the machine restarts for a new plan; with rd.shell there is a shell instead.
package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/distro"
	"netroot/internal/nodeinit/keeper"
	"netroot/internal/nodeinit/network"
	"netroot/internal/nodeinit/report"
)

// newRoot is where the root is put together before it is switched to.
const newRoot = "/sysroot"

// node is the state of one boot.
type node struct {
	console *report.Console
	history *report.History // for the rescue shell
	to      report.Reporter // both of them
	spread  spread

	boot    handoff.Boot
	modules *devices.Loader
	net     *network.Config
	root    *attach.Root // once it is attached
	guest   bool         // another initramfs owns the machine, and has a shell: see Dracut
}

func newNode() *node {
	console, history := report.NewConsole(nil), &report.History{}
	return &node{console: console, history: history, to: report.All{console, history}, spread: rand.Float64}
}

// step is one part of the boot. run returns what there is to tell about it, and may be called again
// after it failed.
type step struct {
	name string
	run  func(context.Context, report.Step) (string, error)
	// needsPlan, if set, says that the step fails for ever when the plan of this boot is out of
	// date, so that after a while a restart, for this reason, is better than another attempt.
	needsPlan report.Reason
}

// Boot runs the boot as process 1. It returns only if even a restart of the machine failed.
func Boot() error {
	n := newNode()
	out := report.Step{Name: "init", To: n.to}
	defer func() {
		if r := recover(); r != nil {
			out.Fault(fmt.Errorf("panic: %v", r))
			n.restart(out, report.Panicked, nil)
		}
	}()
	err := n.run(context.Background())
	out.Fault(err)
	n.restart(out, reasonOf(err), err)
	return err
}

func (n *node) run(ctx context.Context) error {
	started := time.Now()
	if err := mountEarly(); err != nil {
		return err
	}
	n.console.Open()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if n.boot, err = handoff.Parse(string(line)); err != nil {
		return err
	}
	n.console.Debug = n.boot.Debug
	for _, argument := range n.boot.PassedOver {
		report.Step{Name: "init", To: n.to}.Note("kernel argument passed over: " + argument)
	}
	for _, s := range []step{
		{name: "modules", run: n.loadModules},
		{name: "network", run: n.bringUpNetwork},
		{name: "attach", run: n.attachRoot, needsPlan: report.AttachFailed},
		n.mountStep(),
		n.layersStep(),
		{name: "identity", run: n.giveIdentity},
	} {
		if err := n.try(ctx, s); err != nil {
			return err
		}
	}
	if n.boot.Break {
		n.rescue(report.Step{Name: "shell", To: n.to}, "rd.break")
	}
	var init string
	find := func(context.Context, report.Step) (said string, err error) {
		if init, err = distro.FindInit(newRoot, n.boot.Init); err != nil {
			err = hopelessError{err}
		}
		return "", err
	}
	if err := n.try(ctx, step{name: "switch", run: find, needsPlan: report.BootFailed}); err != nil {
		return err
	}
	report.Step{Name: "switch", To: n.to}.Note(fmt.Sprintf("to %s, %.2f s after start", init, time.Since(started).Seconds()))
	n.console.Close()
	return switchRoot(init)
}

// mountStep mounts the root. The attach of a tree over NFS only finds a server; the mount shows
// whether it has the tree. What a packed root needs may not be in this kernel.
func (n *node) mountStep() step {
	s := step{name: "mount", run: n.mountRoot, needsPlan: report.MountFailed}
	if n.boot.Root.Transport == handoff.NFS {
		s.needsPlan = report.AttachFailed
	}
	return s
}

// layersStep applies the layers. Archives of the server may be withdrawn after the plan was made.
func (n *node) layersStep() step {
	s := step{name: "layers", run: n.applyLayers}
	if len(n.boot.Layers) > 0 {
		s.needsPlan = report.LayersFailed
	}
	return s
}

// loadModules loads what every boot needs, and at the same time the drivers of this machine's
// devices.
func (n *node) loadModules(_ context.Context, out report.Step) (string, error) {
	if n.modules == nil {
		l, err := devices.NewLoader()
		if err != nil {
			return "", err
		}
		n.modules = l
	}
	n.modules.LoadBefore(out)
	listed := make(chan error, 1)
	go func() { listed <- n.modules.LoadListed(n.boot.Root.Transport) }()
	asked := n.modules.Coldplug(out)
	n.modules.LoadAfter(out)
	if err := <-listed; err != nil {
		return "", err
	}
	return fmt.Sprintf("%d loaded, %d devices asked", n.modules.Count(), asked), nil
}

func (n *node) bringUpNetwork(ctx context.Context, out report.Step) (said string, err error) {
	n.net, err = network.BringUp(ctx, n.boot, func() { n.modules.Coldplug(out) }, out)
	if err != nil {
		return "", err
	}
	return n.net.String(), nil
}

// attachRoot attaches the root by the transport that root= names, and starts the keeper if
// something is to be kept: a connection, or the lease of the address.
func (n *node) attachRoot(ctx context.Context, out report.Step) (string, error) {
	r := n.boot.Root
	attachBy := attach.For(r.Transport)
	if attachBy == nil {
		return "", fmt.Errorf("root=%s: this initramfs has no transport %s", r, r.Transport)
	}
	root, err := attachBy(ctx, attach.Request{Root: r, HostID: n.hostID(), Report: out})
	if err != nil {
		return "", err
	}
	state := keeper.State{NBD: root.NBD, ISCSI: root.ISCSI, Net: n.net}
	if state.Needed() && !n.live() { // the keeper of a live tree is started when its overlay is there
		if err := n.keep(state); err != nil {
			return "", errors.Join(err, root.Detach())
		}
	}
	n.root = root
	return root.Said, nil
}

// keep starts the keeper.
func (n *node) keep(state keeper.State) error {
	p, err := keeper.Start(state, newRoot)
	if err != nil {
		return err
	}
	if state.ISCSI != nil {
		if err := state.ISCSI.Release(); err != nil {
			p.Dismiss()
			return err
		}
	}
	return nil
}

// live reports whether the root is an overlay over a tree that changes.
func (n *node) live() bool { return n.boot.Root.Transport == handoff.NFS && n.boot.Overlay.Enabled }
