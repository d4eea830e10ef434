package main

import (
	"os"
	"path/filepath"

	"netroot/internal/config"
)

// debugLog makes the file that keeps the serial console of a label's machine: with
// the logs of builds, or, for those who may not write there, a temporary one.
func debugLog(cfg *config.Config, label string) (path string, err error) {
	name := "vm-" + label + ".log"
	if os.MkdirAll(cfg.Logs(), 0o755) == nil {
		path = filepath.Join(cfg.Logs(), name)
		f, err := os.Create(path)
		if err == nil {
			return path, f.Close()
		}
	}
	f, err := os.CreateTemp("", "netroot-*-"+name)
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}
