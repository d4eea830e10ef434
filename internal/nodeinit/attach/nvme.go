package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"netroot/internal/nodeinit/devices"
)

const (
	nvmeFabrics = "/dev/nvme-fabrics"
	// nvmeKeepAlive is how long the kernel waits for a sign of life from a controller before it
	// uses another path, or waits for this one.
	nvmeKeepAlive = 5 * time.Second
	// nvmeAttempts are made with each server. Two servers that do not know of each other may give
	// the same number to their controllers, and Linux refuses the second.
	nvmeAttempts = 3
)

// attachNVMe has the kernel connect to each server; several servers of one image are several paths
// to one disk (native multipath). Everything after that is the kernel's work: it reconnects for as
// long as it takes, and the loss of one path does not matter while there is another.
func attachNVMe(ctx context.Context, r Request) (*Root, error) {
	addresses, err := r.addresses(ctx)
	if err != nil {
		return nil, err
	}
	if err := devices.UntilFile(ctx, nvmeFabrics, "nvme_tcp"); err != nil {
		return nil, err
	}
	var paths []string
	var failures []error
	for _, address := range addresses {
		err := nvmeConnect(address, r.Root.Name, r.HostID)
		for attempt := 1; err != nil && attempt < nvmeAttempts; attempt++ {
			err = nvmeConnect(address, r.Root.Name, r.HostID)
		}
		if err != nil {
			failures = append(failures, err)
			r.Report.Fault(err)
			continue
		}
		paths = append(paths, address)
	}
	if paths == nil {
		return nil, errors.Join(failures...)
	}
	var disk string
	err = devices.Until(ctx, 20*time.Second, "disk of "+r.Root.Name, func() (bool, error) {
		disk = nvmeDisk("/sys/class/block", r.Root.Name)
		return disk != "", nil
	})
	if err == nil {
		err = devices.UntilBlock(ctx, disk)
	}
	if err != nil {
		return nil, err
	}
	said := fmt.Sprintf("%s is %s by way of %s", disk, r.Root.Name, strings.Join(paths, " and "))
	return &Root{Device: disk, Said: said}, nil
}

// HostNQN is the node's name as an NVMe host (Base, "NVMe Qualified Names").
func HostNQN(hostID string) string { return "nqn.2014-08.org.nvmexpress:uuid:" + hostID }

// nvmeConnect writes the options of one connection (drivers/nvme/host/fabrics.c, opt_tokens). A
// connection that exists already is not an error.
func nvmeConnect(address, nqn, hostID string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(nvmeFabrics, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	options := []string{
		"transport=tcp", "traddr=" + host, "trsvcid=" + port, "nqn=" + nqn,
		"hostnqn=" + HostNQN(hostID), "hostid=" + hostID,
		"nr_io_queues=4", fmt.Sprintf("keep_alive_tmo=%d", nvmeKeepAlive/time.Second),
		"reconnect_delay=1",
		"ctrl_loss_tmo=-1", // never give up the root
	}
	if _, err := f.WriteString(strings.Join(options, ",")); err != nil {
		if strings.Contains(err.Error(), "already") {
			return nil
		}
		return fmt.Errorf("connect to %s of %s: %w (the kernel's log says more)", nqn, address, err)
	}
	return nil
}

// nvmeDisk finds the disk of a subsystem below class, /sys/class/block: nvme0n1, which stands for
// all its paths. A path has a name of its own, nvme0c0n1, and must not be used: the root would be
// lost with that path.
func nvmeDisk(class, nqn string) string {
	names, _ := filepath.Glob(filepath.Join(class, "nvme*n*"))
	for _, name := range names {
		base := filepath.Base(name)
		if strings.Contains(base, "c") || strings.Contains(base, "p") { // a path, or a partition
			continue
		}
		if devices.Attribute(filepath.Join(name, "device/subsysnqn")) == nqn {
			return "/dev/" + base
		}
	}
	return ""
}
