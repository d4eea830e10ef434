package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"netroot/internal/boot"
)

func TestMain(m *testing.M) {
	if os.Getenv("NETROOT_VM_HELPER") != "" {
		helper()
		return
	}
	goleak.VerifyTestMain(m)
}

// helper is a process that runs a machine, with the console on standard input and output, until
// Ctrl-C.
func helper() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cfg := halted()
	cfg.Stdin, cfg.Serial = os.Stdin, os.Stdout
	m, err := Start(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("pid", m.cmd.Process.Pid)
	fmt.Println("ended:", m.Wait())
}

// When a process is killed, its machine ends.
func TestKilledParent(t *testing.T) {
	needQemu(t, boot.BIOS)
	cmd := exec.Command(os.Args[0])
	// The killed process cannot remove its directory; this test does.
	cmd.Env = append(os.Environ(), "NETROOT_VM_HELPER=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := readPid(t, bufio.NewReader(out))
	cmd.Process.Kill()
	cmd.Wait()
	waitGone(t, pid)
}

func readPid(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	var pid int
	if _, scanErr := fmt.Sscanf(line, "pid %d", &pid); scanErr != nil {
		t.Fatalf("said %q, %v", line, err)
	}
	return pid
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// A pidfd is readable when its process has ended (pidfd_open(2)).
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 10_000); n != 1 {
		syscall.Kill(pid, syscall.SIGKILL)
		t.Errorf("qemu %d is still there after 10 s (%v)", pid, err)
	}
}

// Ctrl-C on an interactive console ends the machine and restores the terminal.
func TestInterruptOnTerminal(t *testing.T) {
	needQemu(t, boot.BIOS)
	master, tty := openTerminal(t)
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NETROOT_VM_HELPER=1", "TMPDIR="+t.TempDir())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(master)
	pid := readPid(t, r)
	if during, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil || during.Lflag&unix.ICANON != 0 || during.Lflag&unix.ISIG == 0 {
		t.Errorf("the terminal is not in a console's mode: %+v, %v", during, err)
	}
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	waitGone(t, pid)
	if line, err := r.ReadString('\n'); !strings.Contains(line, "ended:") {
		t.Errorf("said %q, %v", line, err)
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if diff := cmp.Diff(before, after); diff != "" || err != nil {
		t.Errorf("the terminal is another one (-before +after), %v:\n%s", err, diff)
	}
}

// openTerminal makes a pseudo-terminal (pts(4)).
func openTerminal(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return master, tty
}
