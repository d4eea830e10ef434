// Command keep drops its capabilities but three, on all of its threads, and prints what each thread has then.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"netroot/internal/privilege"
)

func main() {
	for range 4 { // threads that are there before
		blocked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(blocked)
			select {}
		}()
		<-blocked
	}
	if err := privilege.Keep([]privilege.Capability{privilege.Chown, privilege.DACReadSearch}, []privilege.Capability{privilege.FOwner}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) < 5 {
		fmt.Fprintln(os.Stderr, len(threads), "threads", err)
		os.Exit(1)
	}
	for _, file := range threads {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		var facts []string
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
				facts = append(facts, strings.Join(strings.Fields(line), ""))
			}
		}
		fmt.Println(strings.Join(facts, " "))
	}
}
