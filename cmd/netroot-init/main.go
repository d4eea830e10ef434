// Command netroot-init is /init of the initramfs: process 1 of a booting node,
// and, under the name that package nodeinit gives it, the keeper that stays
// behind. All it does is in that package.
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
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "netroot-init is the first process of a diskless node; it is of no use elsewhere")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, nodeinit.Boot())
	os.Exit(1)
}
