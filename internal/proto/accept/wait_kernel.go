//go:build !poller

package accept

// waitInKernel says that busy connections wait in read(2) and write(2). Without it, which the build
// tag "poller" makes for measurements (test/bench/versions), all wait in the poller of Go's
// runtime.
const waitInKernel = true
