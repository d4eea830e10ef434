// Package devices brings up the devices of a booting node: it loads the kernel modules that the
// node's hardware and its root need, waits until the kernel has made a device, and reads what
// sysfs says of it.
//
// It is not udev: it names nothing, sets no permissions, and watches for nothing once it returns.
package devices

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Until asks until the answer is yes, an error, or the limit has passed. what names the thing that
// is missing then.
func Until(ctx context.Context, limit time.Duration, what string, ask func() (bool, error)) error {
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
		Pause(ctx, pause)
	}
}

// Pause blocks for d, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// fileLimit is how long a module may take to make its files after it was loaded.
const fileLimit = 10 * time.Second

// UntilFile waits until a file exists that a kernel module makes.
func UntilFile(ctx context.Context, path, module string) error {
	return Until(ctx, fileLimit, path+" (module "+module+")", func() (bool, error) {
		_, err := os.Stat(path)
		return err == nil, nil
	})
}

// blockLimit is how long the kernel may take to make a block device and to learn its size.
const blockLimit = 20 * time.Second

// UntilBlock waits until a block device exists and has a size.
func UntilBlock(ctx context.Context, path string) error {
	size := "/sys/class/block/" + filepath.Base(path) + "/size"
	return Until(ctx, blockLimit, path, func() (bool, error) {
		_, err := os.Stat(path)
		sectors := Attribute(size)
		return err == nil && sectors != "0" && sectors != "", nil
	})
}

// Attribute reads a small file of sysfs without the blanks around its text; "" if there is none.
func Attribute(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// AvailableMemory reads MemAvailable of /proc/meminfo (proc(5)), in bytes. If the kernel does not
// say, the memory is assumed to be enough.
func AvailableMemory(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 1 << 62
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10
		}
	}
	return 1 << 62
}
