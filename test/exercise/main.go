// Command exercise finds out whether a directory behaves as a local file system does. It is meant
// for a diskless machine whose root is on NFS: it runs on the machine itself, with the machine's
// own kernel as the client. The only assumption about NFS is the list below of what NFS version 3
// cannot do; the command works with any mounted file system.
//
//	exercise [flags] data DIR       random reads, writes, mappings and renames, with a model
//	exercise [flags] names DIR REF  the same random system calls of several users in both
//	exercise [flags] readdir DIR    large directories that change while they are read
//	exercise [flags] root DIR REF   uses of a root: copies, locks, holes, threads, new versions
//	exercise [flags] all DIR REF    all of these
//
// DIR is tested. REF, a directory of a local file system of the same machine (tmpfs is sufficient),
// shows the right behaviour. Everything happens in new directories inside, which are removed after
// success and kept after a failure. The command ends at the first difference and prints the seed
// and the last operations; the same seed gives the same operations. As root, the calls of names are
// made as several users, in their own root directory (chroot), because they also make links that
// lead out.
//
// These differences between NFS version 3, with Linux' client, and a local file system are not
// tested:
//
//   - fallocate, punched holes and SEEK_HOLE; renameat2 with flags; O_TMPFILE; extended attributes;
//     locks of other machines. (fallocate is tried, and the output says if it does not work.)
//   - An open file that is unlinked stays as .nfsXXXX in its directory until it is closed: the
//     directory cannot be removed meanwhile, and the file has one link more than names.
//   - Rights are checked at each read and write, not only at open: the descriptor of a user who is
//     not the owner stops working with the right. The owner keeps access, which is tested.
//   - chown to -1, -1 sends nothing to the server, so set-user-ID bits stay. They also stay after a
//     truncate to the present size, which may leave the time as well.
//   - If a call is wrong for several reasons, another reason may be reported: whether a directory
//     may be written is checked last.
//   - Setting one time to the present and leaving the other requires a writer, not the owner.
//   - access(2) grants X of a fifo, socket or device to nobody, and W of a directory only to users
//     who may search it.
//   - Writing into a fifo does not change its time.
//   - Times are unsigned seconds of 32 bits (1970 to 2106), and users have at most 16 groups.
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

// options are the options of a run.
type options struct {
	seed    uint64
	ops     int  // operations of each worker of data, and of names
	workers int  // workers of data
	files   int  // files in readdir's directory and in root's tree
	threads int  // threads of root
	drop    bool // drop the machine's caches from time to time (only as root)
	log     io.Writer

	// disturb is called before the operation n, with the directory under test. Tests use it to
	// change something that the exercise must find.
	disturb func(n int, dir string)
}

// part is one of the exercises. Its summary gives the amount of work.
type part struct {
	name string
	ref  bool // requires a reference
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
	flags.Uint64Var(&o.seed, "seed", 0, "seed of the random operations; 0: a new one")
	flags.IntVar(&o.ops, "ops", 5000, "operations of names and of each worker of data")
	flags.IntVar(&o.workers, "workers", 3, "workers of data; each has its own files")
	flags.IntVar(&o.files, "files", 2000, "files in readdir's directory and in root's tree")
	flags.IntVar(&o.threads, "threads", 200, "threads of root")
	flags.BoolVar(&o.drop, "drop-caches", false, "drop all caches of the machine from time to time (requires root)")
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
			return fmt.Errorf("%s: the directory%s required", what, map[bool]string{true: " and the reference are", false: " is"}[p.ref])
		}
		chosen = append(chosen, p)
	}
	if len(chosen) == 0 {
		flags.Usage()
		return fmt.Errorf("there is no exercise %q", what)
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
