package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
)

// A staged file is in the Tree only during a run: the host's resolv.conf and hosts, if the Tree's
// own are not usable, and a policy-rc.d for Debian's packages. It is a regular file and not a bind
// mount, so that a section can replace, move or append to it as on a real machine, and what it
// writes stays.
//
// After the run, the staged text is removed from the file. If nothing else is in the file, the
// Tree's former entry is restored: a file, a symbolic link (which may dangle here but not on the
// node), or nothing. The inner process does this work, because it outlives a killed parent.
// Something is left only if that process itself is killed or the machine stops; the next run then
// recognizes the text by its first and last line and repairs the file (repairLeftover).
//
// All paths are relative to the working directory, which is the Tree's root during the whole run.
type stagedFile struct {
	path string
	text string
	perm os.FileMode
}

const (
	stagedBegin = "# netroot: stands here while a command runs in this tree, and goes with it\n"
	stagedEnd   = "# netroot: end\n"
)

// stashName returns the name of the Tree's own file during the run. It lies in the same directory.
func (f stagedFile) stashName() string {
	return path.Join(path.Dir(f.path), "."+path.Base(f.path)+".netroot")
}

const (
	resolvConf = "etc/resolv.conf"
	hostsFile  = "etc/hosts"
	policyRcd  = "usr/sbin/policy-rc.d"
)

// hostFiles is the content of the host's files, read before the host's root is unmounted.
type hostFiles struct{ resolv, hosts string }

func readHostFiles() hostFiles {
	// A host without the file cannot resolve names either.
	resolv, _ := os.ReadFile("/" + resolvConf)
	hosts, _ := os.ReadFile("/" + hostsFile)
	return hostFiles{string(resolv), string(hosts)}
}

// stageFiles stages the files that the Tree lacks. The Tree's root must be the root of this
// process, so that symbolic links are followed inside the Tree. putBack undoes all changes; call it
// after an error too.
func stageFiles(host hostFiles) (putBack func() error, err error) {
	var staged []stagedFile
	putBack = func() error {
		var errs []error
		for _, f := range staged {
			errs = append(errs, f.removeStaged())
		}
		return errors.Join(errs...)
	}
	for _, f := range wanted(host) {
		if _, err := os.Stat(path.Dir(f.path)); err != nil {
			continue // a Tree without /etc does not use the file
		}
		if err := f.repairLeftover(); err != nil {
			return putBack, err
		}
		if f.path == policyRcd && exists(policyRcd) || f.path != policyRcd && usable(f.path) {
			continue
		}
		staged = append(staged, f)
		if err := f.putStaged(); err != nil {
			return putBack, err
		}
	}
	return putBack, nil
}

// wanted lists the files that a run in an empty Tree requires.
func wanted(host hostFiles) []stagedFile {
	var out []stagedFile
	conf := func(path, text string) {
		if hasEntry(path, text) {
			out = append(out, stagedFile{path, stagedBegin + strings.TrimRight(text, "\n") + "\n" + stagedEnd, 0o644})
		}
	}
	conf(resolvConf, host.resolv)
	conf(hostsFile, host.hosts)
	if exists("usr/sbin/invoke-rc.d") {
		// Exit status 101 means that the policy forbids the action: invoke-rc.d(8), and
		// /usr/share/doc/init-system-helpers/README.policy-rc.d.
		out = append(out, stagedFile{policyRcd, "#!/bin/sh\n" + stagedBegin + "exit 101\n" + stagedEnd, 0o755})
	}
	return out
}

// usable reports whether the Tree's own file, with symbolic links followed, has an entry.
func usable(p string) bool {
	fi, err := os.Stat(p)
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	text, err := os.ReadFile(p)
	return err == nil && hasEntry(p, string(text))
}

// hasEntry reports whether a resolv.conf names a server, or a hosts file names a host.
func hasEntry(p, text string) bool {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) >= 2 && (p != resolvConf || words[0] == "nameserver") {
			return true
		}
	}
	return false
}

func exists(p string) bool {
	_, err := os.Lstat(p)
	return err == nil
}

func (f stagedFile) putStaged() error {
	if err := os.Rename(f.path, f.stashName()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("move /%s of the tree aside: %w", f.path, err)
	}
	if err := os.WriteFile(f.path, []byte(f.text), f.perm); err != nil {
		return fmt.Errorf("write %s into the tree: %w", f.path, err)
	}
	return os.Chmod(f.path, f.perm) // independent of the umask
}

// removeStaged removes the staged text. It restores the former entry, unless the command has
// changed the file.
func (f stagedFile) removeStaged() error {
	rest, err := f.rest()
	if err != nil {
		return fmt.Errorf("restore /%s of the tree: %w", f.path, err)
	}
	if rest == nil {
		return ignoreMissing(os.Remove(f.stashName()))
	}
	if len(rest) > 0 {
		return errors.Join(os.WriteFile(f.path, rest, f.perm), ignoreMissing(os.Remove(f.stashName())))
	}
	if err := os.Rename(f.stashName(), f.path); errors.Is(err, os.ErrNotExist) {
		return os.Remove(f.path)
	} else if err != nil {
		return fmt.Errorf("restore /%s of the tree: %w", f.path, err)
	}
	return nil
}

// rest returns the content of the file without the staged text: empty if there is no other content,
// nil if the file no longer has the staged text because the command replaced it.
func (f stagedFile) rest() ([]byte, error) {
	fi, err := os.Lstat(f.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	before, after, found := strings.Cut(string(text), f.text)
	if !found {
		return nil, nil
	}
	return append([]byte(before), after...), nil
}

// repairLeftover repairs the file that a killed run left. Its text may differ from f.text, because
// the host's file may have changed since.
func (f stagedFile) repairLeftover() error {
	fi, err := os.Lstat(f.path)
	// The run was killed after it moved the old file and before it wrote the new one.
	if errors.Is(err, os.ErrNotExist) {
		return ignoreMissing(os.Rename(f.stashName(), f.path))
	}
	var text []byte
	if err == nil && fi.Mode().IsRegular() {
		text, err = os.ReadFile(f.path)
	}
	if err != nil {
		return err
	}
	head, _, _ := strings.Cut(f.text, stagedBegin)
	_, block, begun := strings.Cut(string(text), head+stagedBegin)
	block, _, ended := strings.Cut(block, stagedEnd)
	if !begun || !ended {
		return ignoreMissing(os.Remove(f.stashName()))
	}
	f.text = head + stagedBegin + block + stagedEnd
	return f.removeStaged()
}

// ignoreMissing returns err, or nil if err only says that a file to remove did not exist.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
