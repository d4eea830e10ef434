package nodeinit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/distro"
	"netroot/internal/nodeinit/report"
)

// rescue offers a shell when a boot has failed. It has a few commands of our own, because the
// initramfs contains no other program; once the root is mounted, "sh" is the root's own shell.
func (n *node) rescue(out report.Step, why string) {
	tty, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		out.Fault(fmt.Errorf("rescue shell: %w", err))
		devices.Pause(context.Background(), 5*time.Second)
		return
	}
	defer tty.Close()
	fmt.Fprintf(tty, "\nnetroot rescue shell: %s. \"help\" lists the commands.\n", why)
	n.runShell(tty, tty)
}

// command is one command of the rescue shell.
type command struct {
	name, help string
	run        func(n *node, w io.Writer, args []string) error
}

// runShell reads commands until one of them ends the shell, or the input ends.
func (n *node) runShell(r io.Reader, w io.Writer) {
	lines := bufio.NewScanner(r)
	for {
		fmt.Fprint(w, "netroot# ")
		if !lines.Scan() {
			return
		}
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "retry", "exit":
			return
		case "help":
			for _, c := range commands() {
				fmt.Fprintf(w, "  %-22s %s\n", c.name, c.help)
			}
			fmt.Fprintf(w, "  %-22s %s\n", "retry, exit", "continue with the boot")
			continue
		}
		c, ok := lookUp(words[0])
		if !ok {
			fmt.Fprintf(w, "%s: no such command; \"help\" lists them\n", words[0])
			continue
		}
		if err := c.run(n, w, words[1:]); err != nil {
			fmt.Fprintf(w, "%s: %v\n", words[0], err)
		}
	}
}

func lookUp(word string) (command, bool) {
	for _, c := range commands() {
		if name, _, _ := strings.Cut(c.name, " "); name == word {
			return c, true
		}
	}
	return command{}, false
}

func commands() []command {
	return []command{
		{"steps", "what each step of the boot reported", func(n *node, w io.Writer, _ []string) error {
			fmt.Fprintln(w, n.history)
			return nil
		}},
		{"cmdline", "the kernel command line", printFile("/proc/cmdline")},
		{"mounts", "what is mounted", printFile("/proc/mounts")},
		{"modules", "the loaded kernel modules", printFile("/proc/modules")},
		{"dmesg", "the kernel's log", func(_ *node, w io.Writer, _ []string) error { return dmesg(w) }},
		{"net", "interfaces and addresses", func(_ *node, w io.Writer, _ []string) error { return printNet(w) }},
		{"dial HOST:PORT", "try to connect by TCP", dial},
		{"modprobe NAME", "load a kernel module", func(n *node, _ io.Writer, args []string) error {
			if n.modules == nil || len(args) != 1 {
				return fmt.Errorf("expected one name, and modules in the initramfs")
			}
			return n.modules.Load(args[0])
		}},
		{"ls [DIR]", "list a directory", list},
		{"cat FILE", "print a file", func(n *node, w io.Writer, args []string) error {
			for _, a := range args {
				if err := printFile(a)(n, w, nil); err != nil {
					return err
				}
			}
			return nil
		}},
		{"sh", "the shell of the root, once it is mounted", rootShell},
		{"reboot", "restart the machine", func(*node, io.Writer, []string) error {
			unix.Sync()
			return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		}},
		{"poweroff", "switch the machine off", func(*node, io.Writer, []string) error {
			unix.Sync()
			return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}},
	}
}

func printFile(path string) func(*node, io.Writer, []string) error {
	return func(_ *node, w io.Writer, _ []string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
}

// dmesg prints the kernel's log (syslog(2), SYSLOG_ACTION_READ_ALL).
func dmesg(w io.Writer) error {
	buf := make([]byte, 1<<20)
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return err
	}
	_, err = w.Write(buf[:size])
	return err
}

func printNet(w io.Writer) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		a := l.Attrs()
		carrier := "no carrier"
		if devices.Attribute("/sys/class/net/"+a.Name+"/carrier") == "1" {
			carrier = "carrier"
		}
		fmt.Fprintf(w, "%s %s %s, %s\n", a.Name, a.HardwareAddr, a.Flags, carrier)
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			fmt.Fprintf(w, "  %s\n", addr.IPNet)
		}
	}
	return nil
}

func dial(_ *node, w io.Writer, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("expected HOST:PORT")
	}
	started := time.Now()
	conn, err := net.DialTimeout("tcp", args[0], 10*time.Second)
	if err != nil {
		return err
	}
	conn.Close()
	fmt.Fprintf(w, "connected in %s\n", time.Since(started).Round(time.Millisecond))
	return nil
}

func list(_ *node, w io.Writer, args []string) error {
	dir := "/"
	if len(args) > 0 {
		dir = args[0]
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		fmt.Fprintf(w, "%s %12d %s\n", info.Mode(), info.Size(), e.Name())
	}
	return nil
}

// rootShell runs the root's own shell in the root. While it runs, the root has the /dev, /proc and
// /sys of the initramfs.
func rootShell(_ *node, _ io.Writer, _ []string) error {
	if _, err := distro.FindInit(newRoot, "/bin/sh"); err != nil {
		return fmt.Errorf("no root is mounted yet, or it has no /bin/sh")
	}
	tty, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	mounts := []string{"/dev", "/proc", "/sys", "/run"}
	for _, dir := range mounts {
		unix.Mount(dir, newRoot+dir, "", unix.MS_BIND, "")
	}
	slices.Reverse(mounts)
	defer func() {
		for _, dir := range mounts {
			unix.Unmount(newRoot+dir, unix.MNT_DETACH)
		}
	}()
	cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-i"}, Dir: "/", Stdin: tty, Stdout: tty, Stderr: tty,
		Env:         append([]string{"HOME=/root"}, environment...),
		SysProcAttr: &syscall.SysProcAttr{Chroot: newRoot, Setsid: true, Setctty: true}}
	return cmd.Run()
}
