package nodeinit

import (
	"fmt"
	"os"
	"strings"
)

// console is where the boot tells what it does: the kernel's log, which brings
// the line to every console with the kernel's own time stamp, and later to the
// journal. "quiet" on the command line hides what went well and shows failures.
type console struct {
	kmsg  *os.File // nil before /dev is mounted
	debug bool
}

// printk levels, include/linux/kern_levels.h.
const (
	levelErr    = 3
	levelNotice = 5
	levelDebug  = 7
)

const printkDevkmsg = "/proc/sys/kernel/printk_devkmsg"

func openConsole() *console { return &console{} }

// begin opens the kernel's log, and lifts the limit of ten lines in five
// seconds that it puts on a writer (kernel/printk/printk.c, devkmsg_write).
func (c *console) begin() {
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		c.kmsg = f
	}
	os.WriteFile(printkDevkmsg, []byte("on\n"), 0) // fails where the command line fixed it
}

// end puts the limit back for those who come after.
func (c *console) end() {
	os.WriteFile(printkDevkmsg, []byte("ratelimit\n"), 0)
}

func (c *console) say(name, text string) { c.write(levelNotice, name+": "+text) }

func (c *console) fail(name string, err error) {
	c.write(levelErr, fmt.Sprintf("%s: FAILED: %v", name, err))
}

// detail is for those who asked for rd.debug; others find it in the kernel's log.
func (c *console) detail(name, text string) {
	level := levelDebug
	if c.debug {
		level = levelNotice
	}
	c.write(level, name+": "+text)
}

func (c *console) write(level int, text string) {
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
	if c.kmsg == nil {
		fmt.Fprintln(os.Stderr, "netroot: "+text)
		return
	}
	const limit = 900 // a record holds 1 KiB with its prefix (LOG_LINE_MAX)
	if len(text) > limit {
		text = text[:limit] + "..."
	}
	fmt.Fprintf(c.kmsg, "<%d>netroot: %s\n", level, text)
}
