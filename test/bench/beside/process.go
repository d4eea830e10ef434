package beside

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is what times in /proc are counted in: USER_HZ, 100 a second on every Linux.
const clockTick = 100

// stat are fields of /proc/PID/stat (proc(5)).
type stat struct {
	pid, parent int
	cpu         float64 // seconds in user and kernel mode, of threads that have ended too
}

func readStat(file string) (s stat, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	at := bytes.LastIndexByte(b, ')') // the name before it may hold anything
	f := strings.Fields(string(b[at+1:]))
	if at < 0 || len(f) < 13 {
		return s, fmt.Errorf("%s: %q", file, b)
	}
	s.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(file)))
	s.parent, _ = strconv.Atoi(f[1])
	user, _ := strconv.Atoi(f[11])
	kernel, _ := strconv.Atoi(f[12])
	s.cpu = float64(user+kernel) / clockTick
	return s, nil
}

// CPU is the processor time that a process has taken, in seconds, without its children.
func CPU(pid int) (float64, error) {
	s, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return s.cpu, err
}

// processes are the server's: itself and its children.
func (t *Target) processes() (all []stat) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		if s, err := readStat(file); err == nil && (s.pid == t.PID || s.parent == t.PID) {
			all = append(all, s)
		}
	}
	return all
}

// CPU is the processor time that the server has taken, in seconds.
func (t *Target) CPU() (sum float64) {
	for _, s := range t.processes() {
		sum += s.cpu
	}
	return sum
}

// Resident is the memory of the server, in bytes: pages that it shares with no other process, and
// its share of those that it does (Pss in smaps_rollup, proc(5)).
func (t *Target) Resident() (sum int64, err error) {
	for _, s := range t.processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.pid))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
				n, err := strconv.ParseInt(f[1], 10, 64)
				if err != nil {
					return 0, err
				}
				sum += n << 10
			}
		}
	}
	return sum, nil
}

// MostThreads looks at the number of the server's threads every few milliseconds until stop is
// closed, and returns the highest.
func (t *Target) MostThreads(stop <-chan struct{}) (most int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.PID))
		most = max(most, len(threads))
		select {
		case <-stop:
			return most
		case <-tick.C:
		}
	}
}
