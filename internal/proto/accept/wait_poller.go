//go:build poller

package accept

const waitInKernel = false // for measurements; see wait_kernel.go
