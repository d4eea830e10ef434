// Command exercise finds out whether a directory behaves as a local file system does. It is meant for a diskless
// machine's root on NFS: copied into the machine, it runs with the machine's own kernel as the client. It knows
// nothing of NFS but what NFS version 3 cannot do (below), and tells the same of any file system that is mounted.
//
//	exercise [flags] data DIR           random reads, writes, mappings, renames against a model in memory
//	exercise [flags] names DIR REF      random system calls of several users, the same in DIR and REF
//	exercise [flags] readdir DIR        directories of thousands of entries that change while they are read
//	exercise [flags] root DIR REF       what a root needs: copies, locks, holes, threads, replaced files
//	exercise [flags] all DIR REF        each of them
//
// DIR is tested and REF, a directory of a local file system of the same machine (tmpfs will do), is what is right.
// Everything happens in new directories inside, which are removed when all is well and are left when not. The first
// difference ends it, with the seed and the last operations; the same seed makes the same operations again. As root,
// it is several users that make the calls of names, in a root directory of their own (chroot), for they also make
// links that lead out.
//
// What NFS version 3 and Linux' client of it cannot do as a local file system does is not asked:
//
//   - fallocate, holes punched and SEEK_HOLE; renameat2 with flags; O_TMPFILE; extended attributes; locks of other
//     machines. (fallocate is tried, and where it does not work that is said.)
//   - A file that is open and unlinked stays as .nfsXXXX beside its name until it is closed: the directory cannot
//     be removed meanwhile, and the file has a link more than it has names.
//   - Rights are asked at each read and write, not only at open: a descriptor of somebody who is not the owner
//     ends with the right. The owner keeps it, which is tested.
//   - chown to nobody (-1, -1) says nothing to the server, so set-user-ID bits stay. So does a truncate to the size
//     that the file has, which may leave its time, too.
//   - Of several reasons to refuse a call, another may be the first: whether a directory may be written is asked last.
//   - One time set to the present and the other left wants a writer, not the owner.
//   - access(2) grants X of a fifo, socket or device to nobody, and W of a directory to those who may search it.
//   - What is written into a fifo does not change its time.
//   - Times are seconds of 32 bits without sign (1970 to 2106), users have 16 groups.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "exercise:", err)
		os.Exit(1)
	}
}

// options are what a run is told.
type options struct {
	seed    uint64
	ops     int  // operations of each worker of data, and of names
	workers int  // of data
	files   int  // of readdir and root, whose trees have that many
	threads int  // of root
	drop    bool // drop the machine's caches now and then (root only)
	log     io.Writer

	// disturb is called before the operation n, with the directory under test. Tests use it to spoil something,
	// and see that it is found.
	disturb func(n int, dir string)
}

// part is one of the exercises. Its summary says what it did, in numbers.
type part struct {
	name string
	ref  bool // needs a reference
	run  func(ctx context.Context, o options, dir, ref string) (summary string, err error)
}

func parts() []part {
	return []part{
		{"data", false, runData},
		{"names", true, runNames},
		{"readdir", false, runReaddir},
		{"root", true, runRoot},
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o := options{log: io.Discard}
	flags := flag.NewFlagSet("exercise", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&o.seed, "seed", 0, "of the random operations; 0 is a new one")
	flags.IntVar(&o.ops, "ops", 5000, "operations of names and of each worker of data")
	flags.IntVar(&o.workers, "workers", 3, "workers of data, which have files of their own")
	flags.IntVar(&o.files, "files", 2000, "files of readdir's directory and root's tree")
	flags.IntVar(&o.threads, "threads", 200, "threads of root")
	flags.BoolVar(&o.drop, "drop-caches", false, "drop all caches of the machine now and then, as root")
	verbose := flags.Bool("v", false, "print each operation")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: exercise [flags] data|readdir DIR\n       exercise [flags] names|root|all DIR REF")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if *verbose {
		o.log = stderr
	}
	what, dir, ref := flags.Arg(0), flags.Arg(1), flags.Arg(2)
	var chosen []part
	for _, p := range parts() {
		if what != p.name && what != "all" {
			continue
		}
		if dir == "" || p.ref && ref == "" {
			return fmt.Errorf("%s: name the directory%s", what, map[bool]string{true: " and the reference"}[p.ref])
		}
		chosen = append(chosen, p)
	}
	if len(chosen) == 0 {
		flags.Usage()
		return fmt.Errorf("no exercise is called %q", what)
	}
	for _, p := range chosen {
		started := time.Now()
		summary, err := p.run(ctx, o, dir, ref)
		if err != nil {
			return fmt.Errorf("%s (-seed %d): %w", p.name, o.seed, err)
		}
		fmt.Fprintf(stdout, "%s: %s, in %.1f s (-seed %d)\n", p.name, summary, time.Since(started).Seconds(), o.seed)
	}
	return nil
}
