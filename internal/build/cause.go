package build

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"netroot/internal/sandbox"
	"netroot/internal/term"
)

// causeLines is the number of last lines of output in which a cause is looked for. Further up are
// failures that the part has survived.
const causeLines = 8

// known are lines that tools print about a failure of something that they depend on, and what
// those lines mean.
var known = []struct {
	line  *regexp.Regexp
	cause string // with $1, $2, as in Regexp.Expand
}{
	// apt, and mmdebstrap that runs it
	{regexp.MustCompile(`^E: Failed to fetch (\S+)\s+(.*)$`), "cannot fetch $1: $2"},
	{regexp.MustCompile(`^E: The repository '(\S+) .*' does not have a Release file`), "$1 is not a repository of packages"},
	// debootstrap
	{regexp.MustCompile(`^E: Failed getting release file (\S+)`), "cannot fetch $1"},
	{regexp.MustCompile(`^E: Couldn't download (.*)$`), "cannot fetch $1"},
	// librepo, of dnf and zypper
	{regexp.MustCompile(`Curl error \(\d+\): (.*?) for (http\S+)(?: \[.*\])?\)?$`), "cannot fetch $2: $1"},
	{regexp.MustCompile(`^curl: \(\d+\) (.*)$`), "curl: $1"},
	{regexp.MustCompile(`^wget: (unable to resolve|bad address|can't connect|download timed out)(.*)$`), "wget: $1$2"},
}

// noSpace is how strerror(3) calls ENOSPC and EDQUOT.
var noSpace = regexp.MustCompile(`No space left on device|Disk quota exceeded`)

// cause says why a part of the build failed, if that is a full disk, a server that does not answer,
// or a signal: then the output of the part says no more. It is "" for everything else.
func (b *builder) cause(err error, output []string) string {
	last := output[max(0, len(output)-causeLines):]
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return b.noSpace()
	case b.log.full(), slices.ContainsFunc(last, noSpace.MatchString):
		return "no space left on device; " + b.noSpace()
	}
	for _, k := range known {
		for _, line := range last {
			if m := k.line.FindStringSubmatchIndex(strings.TrimSpace(line)); m != nil {
				return string(k.line.ExpandString(nil, k.cause, strings.TrimSpace(line), m))
			}
		}
	}
	if exit := (*sandbox.ExitError)(nil); errors.As(err, &exit) && exit.Signal == syscall.SIGKILL {
		return "the kernel does this when memory runs out; journalctl -k says so"
	}
	return ""
}

// noSpace names the directory whose file system is full, or the fullest.
func (b *builder) noSpace() string {
	var where string
	var least uint64
	for _, dir := range []string{b.ws.dir, b.opt.LogDir, b.opt.Store.Dir()} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			continue
		}
		if free := fs.Bavail * uint64(fs.Bsize); where == "" || free < least {
			where, least = dir, free
		}
	}
	return fmt.Sprintf("%s has %s free", cmp.Or(where, b.ws.dir), term.Size(int64(least)))
}
