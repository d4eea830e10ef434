package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// readyLimit is how long the keeper may take until it has taken over. It takes a fraction of a
// second, and more on an emulated machine.
const readyLimit = 30 * time.Second

// Process is a keeper that has taken over.
type Process struct{ cmd *exec.Cmd }

// Start starts the keeper and returns when it has taken over. The program, and everything the
// keeper needs later, lies in memory. root is the place of the new root, whose top directory the
// keeper of a live tree inherits.
func Start(state State, root string) (*Process, error) {
	files := []*os.File{}
	if d := state.device(); d != nil {
		files = append(files, d.Files()...)
	} else if state.Live {
		dir, err := os.Open(root)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		files = append(files, dir)
	}
	text, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer kmsg.Close()
	stdin, err := filledPipe(text)
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{name},
		Env:         []string{"GOMAXPROCS=1"},
		Dir:         "/",
		Stdin:       stdin,
		Stdout:      kmsg,
		Stderr:      kmsg,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	p := &Process{cmd}
	if err := p.startReady(files); err != nil {
		return nil, fmt.Errorf("start the keeper: %w", err)
	}
	if err := protect(p.PID(), "/"); err != nil {
		p.Dismiss()
		return nil, fmt.Errorf("protect the keeper: %w", err)
	}
	return p, nil
}

// omitted is where the scripts of a System V init read whom not to kill at shutdown (Debian's
// /etc/init.d/sendsigs); killall5(8) does not know the '@' of a name.
const omitted = "run/sendsigs.omit.d/netroot"

// protect spares a process from the OOM killer, and from the scripts that shut the machine down.
// The keeper itself may not see its /proc any more. In tests top is not the root.
func protect(pid int, top string) error {
	if err := os.WriteFile(filepath.Join(top, fmt.Sprintf("proc/%d/oom_score_adj", pid)), []byte("-1000"), 0); err != nil {
		return err
	}
	file := filepath.Join(top, omitted)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, fmt.Appendf(nil, "%d\n", pid), 0o644)
}

// startReady starts the process with files, and waits until it says that it has taken over.
func (p *Process) startReady(files []*os.File) error {
	ready, announces, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	p.cmd.ExtraFiles = append([]*os.File{announces}, files...)
	err = p.cmd.Start()
	announces.Close()
	if err != nil {
		return err
	}
	if err := ready.SetReadDeadline(time.Now().Add(readyLimit)); err != nil {
		p.Dismiss()
		return err
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		p.Dismiss()
		return fmt.Errorf("it has not taken over (%w); the kernel's log says more", err)
	}
	return nil
}

// PID is the keeper's process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Dismiss ends a keeper that another will replace: two of them would both reconnect the device.
func (p *Process) Dismiss() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// filledPipe is the end to read of a pipe that holds text, for a process that outlives this one.
func filledPipe(text []byte) (*os.File, error) {
	const capacity = 64 << 10 // pipe(7)
	if len(text) > capacity {
		return nil, fmt.Errorf("%d bytes of orders for the keeper are more than a pipe holds", len(text))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(text)
	return r, errors.Join(err, w.Close())
}
