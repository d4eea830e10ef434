package devices

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// AttachLoop makes a read-only loop device of a file (loop(4)).
func AttachLoop(ctx context.Context, file *os.File) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("the kernel's loop driver: %w", err)
	}
	defer control.Close()
	index, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("find a free loop device: %w", err)
	}
	path := "/dev/loop" + strconv.Itoa(index)
	var loop *os.File
	if err := Until(ctx, 5*time.Second, path, func() (bool, error) {
		loop, err = os.OpenFile(path, os.O_RDONLY, 0) // read-only makes the device read-only
		return err == nil, nil
	}); err != nil {
		return "", err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(file.Fd())); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if err := UntilBlock(ctx, path); err != nil {
		return "", errors.Join(err, DetachLoop(path))
	}
	return path, nil
}

// DetachLoop releases the file of a loop device: another attempt fetches the image again, and the
// memory may not hold it twice.
func DetachLoop(path string) error {
	loop, err := os.Open(path)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
		return fmt.Errorf("release %s: %w", path, err)
	}
	return nil
}
