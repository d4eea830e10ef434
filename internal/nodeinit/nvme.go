package nodeinit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	nvmeFabrics = "/dev/nvme-fabrics"
	// nvmeKeepAlive is how long the kernel waits for a controller's sign of
	// life before it takes another path, or waits for this one.
	nvmeKeepAlive = 5 * time.Second
)

// attachNVMe has the kernel connect to each server; several that serve one image
// are several paths to one disk (native multipath). From then on everything is
// the kernel's: it connects again for as long as it takes, and a path that is
// lost is no matter while another is there.
func (n *node) attachNVMe(ctx context.Context) (string, error) {
	addresses, err := n.addresses(ctx)
	if err != nil {
		return "", err
	}
	if err := poll(ctx, 10*time.Second, nvmeFabrics+" (module nvme_tcp)", func() (bool, error) {
		_, err := os.Stat(nvmeFabrics)
		return err == nil, nil
	}); err != nil {
		return "", err
	}
	var paths []string
	var failures []error
	for _, address := range addresses {
		err := nvmeConnect(address, n.boot.Root.Name, n.hostID())
		for range 2 {
			if err == nil {
				break
			}
			// Two servers that know nothing of each other may give the same
			// number to their controllers, and Linux refuses the second.
			err = nvmeConnect(address, n.boot.Root.Name, n.hostID())
		}
		if err != nil {
			failures = append(failures, err)
			n.log.fail("attach", err)
			continue
		}
		paths = append(paths, address)
	}
	if paths == nil {
		return "", errors.Join(failures...)
	}
	err = poll(ctx, 20*time.Second, "disk of "+n.boot.Root.Name, func() (bool, error) {
		n.device = nvmeDisk("/sys/class/block", n.boot.Root.Name)
		return n.device != "", nil
	})
	if err == nil {
		err = waitDevice(ctx, n.device)
	}
	if err == nil {
		err = n.keepAddress()
	}
	return fmt.Sprintf("%s is %s by way of %s", n.device, n.boot.Root.Name, strings.Join(paths, " and ")), err
}

// nvmeConnect writes one connection's options (drivers/nvme/host/fabrics.c,
// opt_tokens). A connection that is there already is no error.
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
		"hostnqn=nqn.2014-08.org.nvmexpress:uuid:" + hostID, "hostid=" + hostID,
		"nr_io_queues=4", fmt.Sprintf("keep_alive_tmo=%d", nvmeKeepAlive/time.Second),
		"reconnect_delay=1",
		"ctrl_loss_tmo=-1", // never give the root up
	}
	if _, err := f.WriteString(strings.Join(options, ",")); err != nil {
		if strings.Contains(err.Error(), "already") {
			return nil
		}
		return fmt.Errorf("connect to %s of %s: %w (the kernel's log says more)", nqn, address, err)
	}
	return nil
}

// nvmeDisk finds the disk of a subsystem below /sys/class/block: the one that
// stands for all its paths.
func nvmeDisk(class, nqn string) string {
	names, _ := filepath.Glob(filepath.Join(class, "nvme*n*"))
	for _, name := range names {
		base := filepath.Base(name)
		if strings.Contains(base, "c") || strings.Contains(base, "p") { // a path of it, or a partition
			continue
		}
		if readTrimmed(filepath.Join(name, "device/subsysnqn")) == nqn {
			return "/dev/" + base
		}
	}
	return ""
}

// hostID is the node's identity as a UUID, which the servers know it by.
func (n *node) hostID() string {
	id := machineID(readTrimmed(productUUID), n.net.MAC)
	b, _ := hex.DecodeString(id)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
