// Command netroot-init is /init of the initramfs: process 1 of a booting node. Under other names it
// is the keeper that stays on the node, and the modprobe that the kernel runs for modules that it
// needs; our dracut module calls "netroot-init dracut" in an initramfs that dracut made. All of its
// work is in package nodeinit and the packages below it.
package main

import (
	"fmt"
	"os"

	"netroot/internal/nodeinit"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/keeper"
)

func main() {
	if keeper.IsKeeper(os.Args[0]) {
		fmt.Fprintln(os.Stderr, keeper.Run(os.Stdin))
		os.Exit(1)
	}
	if devices.IsModprobe(os.Args[0]) {
		if err := devices.Modprobe(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "dracut" {
		if err := nodeinit.Dracut(os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "netroot-init dracut:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "netroot-init is the first process of a diskless node and cannot run elsewhere")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, nodeinit.Boot())
	os.Exit(1)
}
