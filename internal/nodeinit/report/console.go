package report

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// Console is the Reporter that writes to the kernel's log. The kernel brings each line to every
// console with its own time stamp, and later to the journal. With "quiet" on the command line the
// console shows failures only.
type Console struct {
	Debug bool      // also show details and the start of each attempt
	kmsg  io.Writer // nil before /dev is mounted
}

// printk levels, include/linux/kern_levels.h.
const (
	levelErr    = 3
	levelNotice = 5
	levelDebug  = 7
)

const printkDevkmsg = "/proc/sys/kernel/printk_devkmsg"

// NewConsole is a console that writes to w, an open /dev/kmsg; nil: to standard error until Open.
func NewConsole(w io.Writer) *Console { return &Console{kmsg: w} }

// Open opens the kernel's log and lifts the kernel's limit of ten lines in five seconds for each
// writer (kernel/printk/printk.c, devkmsg_write).
func (c *Console) Open() {
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		c.kmsg = f
	}
	os.WriteFile(printkDevkmsg, []byte("on\n"), 0) // fails if the command line fixes the setting
}

// Close restores the limit for the programs of the root.
func (c *Console) Close() {
	os.WriteFile(printkDevkmsg, []byte("ratelimit\n"), 0)
}

// Report implements Reporter.
func (c *Console) Report(e Event) {
	switch e.Kind {
	case Done:
		if e.Text == "" { // the step had nothing to do
			return
		}
		c.write(levelNotice, e.String())
	case Failed, Fault:
		c.write(levelErr, e.String())
	case Started, Detail:
		level := levelDebug // still in the kernel's log
		if c.Debug {
			level = levelNotice
		}
		c.write(level, e.String())
	default:
		c.write(levelNotice, e.String())
	}
}

func (c *Console) write(level int, text string) {
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
