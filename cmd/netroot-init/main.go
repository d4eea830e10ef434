// Command netroot-init is /init of the initramfs: process 1 of a booting node.
// Under other names it is the keeper that stays behind, and the modprobe that
// the kernel runs for modules it wants itself; "netroot-init dracut" is what our
// module calls in an initramfs that dracut made. All it does is in package
// nodeinit.
package main

import (
	"fmt"
	"os"

	"netroot/internal/nodeinit"
)

func main() {
	if nodeinit.IsKeeper(os.Args[0]) {
		fmt.Fprintln(os.Stderr, nodeinit.Keep(os.Stdin))
		os.Exit(1)
	}
	if nodeinit.IsModprobe(os.Args[0]) {
		if err := nodeinit.Modprobe(os.Args[1:]); err != nil {
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
		fmt.Fprintln(os.Stderr, "netroot-init is the first process of a diskless node; it is of no use elsewhere")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, nodeinit.Boot())
	os.Exit(1)
}
