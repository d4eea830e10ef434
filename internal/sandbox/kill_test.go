package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parentVar is the environment variable that makes a copy of the test binary run a sandbox, so that
// TestParentKilled can kill it.
const parentVar = "NETROOT_TEST_PARENT"

func parentForKilling() {
	root := os.Getenv(parentVar)
	if root == "" {
		return
	}
	s := Sandbox{Root: root, Stdout: os.Stdout, Stderr: os.Stderr}
	err := s.RunScript(context.Background(), script("setsid sleep 603.25 &\nsleep 603.25 &\necho ready; wait"), "%post")
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestParentKilled kills a program that runs a sandbox with SIGKILL, and looks for leftover
// processes and mounts.
func TestParentKilled(t *testing.T) {
	root := tinyTree(t)
	link := filepath.Join(root, "etc/resolv.conf")
	must(t, os.Symlink("../run/systemd/resolve/stub-resolv.conf", link))
	mounts := mountinfo(t)

	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parentVar+"="+root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	inner := childOf(t, cmd.Process.Pid)
	var sleeps []int
	for tick, end := time.Tick(5*time.Millisecond), time.After(20*time.Second); len(sleeps) != 2; {
		select {
		case <-tick:
			sleeps = processesWith("603.25")
		case <-end:
			t.Fatalf("running: %v, want two sleeps", sleeps)
		}
	}
	alive := append(sleeps, inner)
	var fds []int
	for _, pid := range alive {
		fd, err := unix.PidfdOpen(pid, 0)
		must(t, err)
		defer unix.Close(fd)
		fds = append(fds, fd)
	}

	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for i, fd := range fds {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((20 * time.Second).Milliseconds()))
		if err != nil || ready != 1 {
			t.Errorf("process %d lives on after its parent was killed (%v)", alive[i], err)
		}
	}
	if mountinfo(t) != mounts {
		t.Error("mounts are left")
	}
	if got, err := os.Readlink(link); err != nil || got != "../run/systemd/resolve/stub-resolv.conf" {
		t.Errorf("resolv.conf was not put back: %q, %v", got, err)
	}
}

// childOf returns the pid of a process's only child.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		stat, _ := os.ReadFile(d + "/stat")
		// pid (comm) state ppid ...: proc_pid_stat(5)
		if i := strings.LastIndex(string(stat), ")"); i > 0 {
			if f := strings.Fields(string(stat)[i+1:]); len(f) > 1 && f[1] == fmt.Sprint(pid) {
				return atoi(filepath.Base(d))
			}
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}
