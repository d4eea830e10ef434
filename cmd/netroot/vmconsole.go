package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"netroot/internal/site"
	"netroot/internal/term"
	"netroot/internal/trial"
	"netroot/internal/vm"
)

// console connects the serial console: to a file, to nothing under --run (the
// machine's own log keeps it for an error), or to this terminal. With debug a log keeps
// what does not go to a file.
func (e *env) console(mc *vm.Config, f vmFlags, cfg *site.Site, label string) (closeIt func(), err error) {
	if f.serial == "" && (f.debug || known(cfg, label).Debug) {
		if mc.SerialLog, err = trial.Log(cfg, label); err != nil {
			return nil, err
		}
		e.say("what the serial console says is kept in %s", mc.SerialLog)
	}
	switch {
	case f.serial != "":
		file, err := os.Create(f.serial)
		if err != nil {
			return nil, fmt.Errorf("--serial: %w", err)
		}
		mc.Serial = file
		return func() { file.Close() }, nil
	case f.run == "":
		mc.Serial = e.stdout
		if stdin, ok := e.stdin.(*os.File); ok {
			mc.Stdin = stdin
		}
		return func() { leaveConsole(e.stdout, term.Detect(e.stdout, os.Getenv)) }, nil
	}
	return func() {}, nil
}

// leaveConsole takes back what a machine may have done to the terminal that was its console, and
// begins a line: SeaBIOS switches the wrapping of long lines off (ESC [ ? 7 l), and a killed
// machine leaves colours, and the cursor anywhere.
func leaveConsole(w io.Writer, opt term.Options) {
	if opt.Live {
		fmt.Fprint(w, "\x1b[?7h\x1b[?25h\x1b[0m\n")
	}
}

// runInMachine runs the command and gives the machine an orderly end.
func (e *env) runInMachine(ctx context.Context, m *vm.Machine, key vm.Key, command string, started time.Time) error {
	client, err := m.SSH(ctx, key)
	if err != nil {
		return err
	}
	defer client.Close()
	e.say("logged in after %s", term.Duration(time.Since(started)))
	status, err := client.Run(ctx, command, e.stdout, e.stderr)
	if err != nil {
		return err
	}
	if err := m.PowerOff(ctx, client); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	if status != 0 {
		return &exitError{code: status}
	}
	return nil
}

// tellLogin says how to log in. A key made for the run lies in a file for as
// long as the machine runs.
func (e *env) tellLogin(m *vm.Machine, key vm.Key, f vmFlags) (forget func(), err error) {
	identity := ""
	forget = func() {}
	if f.key == "" {
		dir, err := os.MkdirTemp(os.Getenv("XDG_RUNTIME_DIR"), "netroot-key-")
		if err != nil {
			return nil, err
		}
		forget = func() { os.RemoveAll(dir) }
		file := filepath.Join(dir, "id_ed25519")
		if err := key.WritePrivate(file); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		identity = " -i " + file
	}
	e.sayCommand("log in with:", fmt.Sprintf("ssh -p %d%s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1", m.SSHPort, identity))
	e.say("Ctrl-C ends the machine")
	return forget, nil
}
