package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
)

// A staged file stands in the Tree for the time of a run: the host's resolv.conf and hosts where the Tree's own are of
// no use, and a policy-rc.d for Debian's packages. It is a plain file in its place, not a bind, so that a section can
// replace, move or append to it as on a real machine, and what it writes stays.
//
// Afterwards the staged text is cut out of the file. If nothing else is in it, what was there before comes back: a
// file, a symbolic link that dangles here and not on the node, or nothing. The work is done by the inner process, which
// outlives a killed parent. Only when that process itself is killed, or the machine stops, is something left behind;
// first and last line of the text then let the next run mend it (heal).
//
// All paths are relative to the working directory, which is the Tree's root for the whole run.
type stagedFile struct {
	path string
	text string
	perm os.FileMode
}

const (
	stagedBegin = "# netroot: stands here while a command runs in this tree, and goes with it\n"
	stagedEnd   = "# netroot: end\n"
)

// stash is where the Tree's own file waits, beside its place.
func (f stagedFile) stash() string {
	return path.Join(path.Dir(f.path), "."+path.Base(f.path)+".netroot")
}

const (
	resolvConf = "etc/resolv.conf"
	hostsFile  = "etc/hosts"
	policyRcd  = "usr/sbin/policy-rc.d"
)

// hostFiles is the content of the host's files, read before the host is out of sight.
type hostFiles struct{ resolv, hosts string }

func readHostFiles() hostFiles {
	resolv, _ := os.ReadFile("/" + resolvConf) // a host without one resolves no names either
	hosts, _ := os.ReadFile("/" + hostsFile)
	return hostFiles{string(resolv), string(hosts)}
}

// stageFiles puts in place what the Tree lacks. It must run while the Tree's root is this process's root, so that
// symbolic links are followed inside the Tree. putBack undoes what was done, also after an error.
func stageFiles(host hostFiles) (putBack func() error, err error) {
	var staged []stagedFile
	putBack = func() error {
		var errs []error
		for _, f := range staged {
			errs = append(errs, f.takeOut())
		}
		return errors.Join(errs...)
	}
	for _, f := range wanted(host) {
		if _, err := os.Stat(path.Dir(f.path)); err != nil {
			continue // a Tree without /etc has no use for it
		}
		if err := f.heal(); err != nil {
			return putBack, err
		}
		if f.path == policyRcd && exists(policyRcd) || f.path != policyRcd && usable(f.path) {
			continue
		}
		staged = append(staged, f)
		if err := f.putIn(); err != nil {
			return putBack, err
		}
	}
	return putBack, nil
}

// wanted lists the files that a run needs, were the Tree empty.
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
		// 101: action forbidden by policy; invoke-rc.d(8), and /usr/share/doc/init-system-helpers/README.policy-rc.d.
		out = append(out, stagedFile{policyRcd, "#!/bin/sh\n" + stagedBegin + "exit 101\n" + stagedEnd, 0o755})
	}
	return out
}

// usable reports whether the Tree's own file, through symbolic links, says anything.
func usable(p string) bool {
	fi, err := os.Stat(p)
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	text, err := os.ReadFile(p)
	return err == nil && hasEntry(p, string(text))
}

// hasEntry reports whether a resolv.conf names a server, or a hosts file any host.
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

func (f stagedFile) putIn() error {
	if err := os.Rename(f.path, f.stash()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set the tree's /%s aside: %w", f.path, err)
	}
	if err := os.WriteFile(f.path, []byte(f.text), f.perm); err != nil {
		return fmt.Errorf("put a %s into the tree: %w", f.path, err)
	}
	return os.Chmod(f.path, f.perm) // whatever the umask is
}

// takeOut cuts the staged text out, and brings back what was there unless the command made the file its own.
func (f stagedFile) takeOut() error {
	rest, err := f.rest()
	if err != nil {
		return fmt.Errorf("put the tree's /%s back: %w", f.path, err)
	}
	if rest == nil {
		return dropped(os.Remove(f.stash()))
	}
	if len(rest) > 0 {
		return errors.Join(os.WriteFile(f.path, rest, f.perm), dropped(os.Remove(f.stash())))
	}
	if err := os.Rename(f.stash(), f.path); errors.Is(err, os.ErrNotExist) {
		return os.Remove(f.path)
	} else if err != nil {
		return fmt.Errorf("put the tree's /%s back: %w", f.path, err)
	}
	return nil
}

// rest returns the file's content around the staged text: empty if that is all, nil if the file is the command's.
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

// heal mends what a killed run left. Its text may differ from f.text: the host's file may have changed since.
func (f stagedFile) heal() error {
	fi, err := os.Lstat(f.path)
	if errors.Is(err, os.ErrNotExist) { // killed between setting the old file aside and writing the new
		return dropped(os.Rename(f.stash(), f.path))
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
		return dropped(os.Remove(f.stash()))
	}
	f.text = head + stagedBegin + block + stagedEnd
	return f.takeOut()
}

// dropped ignores that a file to be removed was not there.
func dropped(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
