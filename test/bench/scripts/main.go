// Command scripts measures how fast "netroot serve" gives out boot scripts, and how much memory it
// has then: to many clients at once, of a label with layers of many files, from stores of few and
// of many versions. With -against it measures a second program in turn, such as one of an older
// commit, and prints the ratio.
//
//	go run ./test/bench/scripts -netroot bin/netroot -against /tmp/older/netroot
//	go run ./test/bench/scripts -netroot bin/netroot -against /tmp/older/netroot -versions 1000 -scripts 50 -rounds 1
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// bench is what the flags say.
type bench struct {
	netroot, against string
	dir              string
	versions         []int
	layers, files    int
	packages         int
	scripts, clients int
	rounds           int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	b := bench{versions: []int{1, 1000}}
	fl := flag.NewFlagSet("scripts", flag.ContinueOnError)
	fl.StringVar(&b.netroot, "netroot", "bin/netroot", "the program to measure")
	fl.StringVar(&b.against, "against", "", "another program to measure in turn")
	fl.IntVar(&b.layers, "layers", 3, "layers of the label")
	fl.IntVar(&b.files, "files", 400, "files in each layer, of 4 KiB")
	fl.IntVar(&b.packages, "packages", 700, "packages that each version names")
	fl.IntVar(&b.scripts, "scripts", 1000, "boot scripts in a round")
	fl.IntVar(&b.clients, "clients", 32, "clients that ask at once")
	fl.IntVar(&b.rounds, "rounds", 3, "rounds of each program; the fastest counts")
	fl.Func("versions", "sizes of the store, with commas (default 1,1000)", func(s string) error {
		b.versions = nil
		for text := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is not a number of versions", text)
			}
			b.versions = append(b.versions, n)
		}
		return nil
	})
	if err := fl.Parse(args); err != nil {
		return err
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "netroot-scripts-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.configuration(); err != nil {
		return err
	}
	for _, n := range b.versions {
		if err := b.store(n); err != nil {
			return err
		}
		if err := b.compare(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// measured is one program's result.
type measured struct {
	took     time.Duration // of one round
	rss, hwm int           // KiB
}

func (b *bench) compare(ctx context.Context, versions int) error {
	programs := []string{b.netroot}
	if b.against != "" {
		programs = append(programs, b.against)
	}
	var results []measured
	for _, p := range programs {
		m, err := b.measure(ctx, p, versions)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		fmt.Printf("%-40s %5d versions, %d layers of %d files: %d scripts in %v (%.0f a second), RSS %.1f MiB (most: %.1f)\n", p, versions, b.layers, b.files,
			b.scripts, m.took.Round(time.Millisecond), float64(b.scripts)/m.took.Seconds(), float64(m.rss)/1024, float64(m.hwm)/1024)
		results = append(results, m)
	}
	if len(results) == 2 {
		fmt.Printf("%-40s %5d versions: %.1f times faster\n", "ratio", versions, results[1].took.Seconds()/results[0].took.Seconds())
	}
	return nil
}

// measure runs one program: it asks for a script of each version once, so that all are known, and
// then for those of the label.
func (b *bench) measure(ctx context.Context, program string, versions int) (m measured, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--config", filepath.Join(b.dir, "netroot.yaml"), "--state", b.state(versions), "serve",
		"--http", "127.0.0.1:0", "--nbd", "", "--nvme", "", "--iscsi", "", "--nfs", "")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	said, err := cmd.StderrPipe()
	if err != nil {
		return m, err
	}
	if err := cmd.Start(); err != nil {
		return m, err
	}
	defer func() {
		cancel()
		cmd.Wait() // it was told to end, and says so
	}()
	url, err := listening(said)
	if err != nil {
		return m, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: b.clients}}
	defer client.CloseIdleConnections()
	if program == b.netroot { // an older program may need a second for each
		names, err := os.ReadFile(filepath.Join(b.state(versions), "names"))
		if err != nil {
			return m, err
		}
		if _, err := b.ask(ctx, client, url, strings.Fields(string(names))); err != nil {
			return m, err
		}
	}
	for range b.rounds {
		took, err := b.ask(ctx, client, url, slices.Repeat([]string{"bench"}, b.scripts))
		if err != nil {
			return m, err
		}
		if m.took == 0 || took < m.took {
			m.took = took
		}
	}
	m.rss, m.hwm, err = memory(cmd.Process.Pid)
	return m, err
}

// listening waits until the program says where it listens, and reads on.
func listening(said io.Reader) (url string, err error) {
	where := regexp.MustCompile(`netroot: serving .* HTTP on ([0-9.:]+)`)
	lines := bufio.NewScanner(said)
	var all strings.Builder
	for lines.Scan() {
		if m := where.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, said)
			return "http://" + m[1], nil
		}
		fmt.Fprintln(&all, lines.Text())
	}
	return "", errors.Join(lines.Err(), fmt.Errorf("it does not serve:\n%s", &all))
}

// ask fetches the scripts of these names, and returns how long that took.
func (b *bench) ask(ctx context.Context, client *http.Client, url string, names []string) (time.Duration, error) {
	var next atomic.Int64
	begin := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range b.clients {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return nil
				}
				if err := b.script(ctx, client, url+"/boot/"+names[i]+".ipxe"); err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	return time.Since(begin), err
}

func (b *bench) script(ctx context.Context, client *http.Client, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if n := strings.Count(string(body), "netroot.layer="); resp.StatusCode != http.StatusOK || n != b.layers {
		return fmt.Errorf("%s: %s, %d layers\n%s", url, resp.Status, n, body)
	}
	return nil
}

// memory is what a process has in memory, and the most that it had, in KiB.
func memory(pid int) (rss, hwm int, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		n, _ := strconv.Atoi(words[1])
		switch words[0] {
		case "VmRSS:":
			rss = n
		case "VmHWM:":
			hwm = n
		}
	}
	return rss, hwm, nil
}
