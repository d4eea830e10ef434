// Package dracut makes the other flavour of initramfs: that of the tree's own dracut, with our
// module in it. Drivers, network and most transports are the work of dracut and the distribution's
// programs. The module (folder module, and nodeinit/dracut.go) adds what they do not have: memory
// and layers over the root, the node's identity, the transports that dracut has no module for, and
// a keeper for those whose programs give up.
//
// The tree does not change; dracut sees it read-only. Our module lies in a copy of dracut's modules
// folder, which is mounted in place of the original while dracut runs. The package is not an
// initramfs generator, which is package initramfs, and does not install a module for the tree's own
// use.
package dracut

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"netroot/internal/handoff"
	"netroot/internal/initramfs"
	"netroot/internal/kernel"
	"netroot/internal/layer"
	"netroot/internal/sandbox"
)

// Options say what to make an initramfs of.
type Options struct {
	Tree       string
	Kernel     *kernel.Kernel
	Transports []handoff.Transport // that the kernel supports
	Must       []handoff.Transport // that must work; others that do not are reported
	Init       string              // path of the static netroot-init
	Dir        string              // for work, on a disk; the initramfs is written there
	Log        io.Writer           // for the output of dracut
}

// Result is an initramfs.
type Result struct {
	Path       string
	Size       int64               // bytes
	Transports []handoff.Transport // that it can attach a root over, in the order of Options.Transports
	Warnings   []string            // why it cannot by the others
}

//go:embed module
var module embed.FS

// Places in a tree.
const (
	program    = "/usr/bin/dracut"
	modulesDir = "/usr/lib/dracut/modules.d"
	moduleName = "90netroot"
)

// omitted are modules of dracut that would do what ours does, or look for a root on disks,
// passwords and keyboards. Debian's dracut has overlay-root, which reads the same argument as our
// module.
var omitted = []string{
	"overlay-root", "livenet", "dmsquash-live", "dmsquash-live-ntfs", "ifcfg",
	"lvm", "dm", "dmraid", "mdraid", "multipath", "crypt", "btrfs", "resume", "plymouth", "i18n",
}

// filesystems are those that a root is packed as, and those of disks that a site's own hooks may
// need. All file systems of a kernel would be a fifth of the archive.
const filesystems = "squashfs erofs overlay ext4 xfs vfat"

// Make runs the tree's dracut. The initramfs depends on the tree and on netroot-init alone: a
// second run gives the same bytes. If dracut, its network or a transport that must work is missing,
// the error says what to install.
func Make(ctx context.Context, opt Options) (*Result, error) {
	root, err := os.OpenRoot(opt.Tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	t := tree{root}
	if !t.has(program) {
		return nil, fmt.Errorf("the tree has no dracut, which \"initramfs: dracut\" requires: install %s in the recipe", t.packages(basePackages))
	}
	add, err := t.network()
	if err != nil {
		return nil, err
	}
	r := &Result{Path: filepath.Join(opt.Dir, "initramfs-dracut.img")}
	for _, transport := range opt.Transports {
		module, lacking := t.attaches(transport)
		if lacking == "" {
			r.Transports = append(r.Transports, transport)
			if module != "" {
				add = append(add, module)
			}
			continue
		}
		warning := fmt.Sprintf("dracut in this tree cannot attach %s roots: %s", transport, lacking)
		if slices.Contains(opt.Must, transport) {
			return nil, errors.New(warning)
		}
		r.Warnings = append(r.Warnings, warning)
	}
	add = append(add, "netroot")
	said, err := opt.run(ctx, t, add)
	if err != nil {
		return nil, err
	}
	made, err := opt.finish(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("initramfs of dracut: %w", err)
	}
	if made.early {
		r.Warnings = append(r.Warnings, "the kernel will not use the ACPI tables that dracut put into the initramfs (acpi_override), which is compressed as a whole")
	}
	return r, made.check(add, said)
}

// check reports what an initramfs lacks. said is dracut's output.
func (c contents) check(modules []string, said string) error {
	if !c.init {
		return fmt.Errorf("dracut made an initramfs without /init%s", complaint(said, ""))
	}
	if c.modules == nil {
		return fmt.Errorf("dracut made an initramfs without a list of its modules (%s)", moduleLists[0])
	}
	for _, name := range modules {
		if !slices.Contains(c.modules, name) {
			return fmt.Errorf("dracut left its module %s out%s", name, complaint(said, name))
		}
	}
	return nil
}

// run has dracut write an archive, not compressed, into Dir, and returns dracut's output.
func (opt Options) run(ctx context.Context, t tree, modules []string) (string, error) {
	folder, err := opt.modules(t)
	if err != nil {
		return "", err
	}
	var said bytes.Buffer
	out := io.MultiWriter(opt.Log, &said)
	s := sandbox.Sandbox{
		Root: opt.Tree, Name: "dracut", ReadOnly: true, Stdout: out, Stderr: out,
		// Every tree has /tmp, and it is never the tree's own.
		Binds: []sandbox.Bind{{Source: opt.Dir, Target: "/tmp"}, {Source: folder, Target: modulesDir, ReadOnly: true}},
	}
	argv := []string{
		// Level 4 says why a module is left out; the default is 3 since dracut 109, and in some
		// distributions.
		program, "--stdlog", "4", "--force", "--no-hostonly", "--no-hostonly-cmdline", "--no-early-microcode", "--no-compress",
		"--filesystems", filesystems, "--tmpdir", "/tmp", "--kver", opt.Kernel.Release, "--add", strings.Join(modules, " "), "--omit", strings.Join(omitted, " "),
	}
	if t.contains(program, "--reproducible") { // not in EL 7
		argv = append(argv, "--reproducible")
	}
	if err := s.Run(ctx, append(argv, "/tmp/"+plainName)); err != nil {
		return "", fmt.Errorf("%w%s", err, complaint(said.String(), ""))
	}
	return said.String(), nil
}

// plainName is what dracut calls its archive, in Dir.
const plainName = "dracut.cpio"

// modules makes a copy of dracut's modules with ours among them.
func (opt Options) modules(t tree) (string, error) {
	folder := filepath.Join(opt.Dir, "modules.d")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return "", err
	}
	place, err := layer.Resolve(t.root, modulesDir)
	if err != nil {
		return "", fmt.Errorf("the tree's dracut has no modules in %s: %w", modulesDir, err)
	}
	to, err := os.OpenRoot(folder)
	if err != nil {
		return "", err
	}
	defer to.Close()
	if err := layer.Copy(to, filepath.Join(opt.Tree, place), ".", nil); err != nil {
		return "", err
	}
	if err := Install(to, moduleName, opt.Init); err != nil {
		return "", err
	}
	return folder, nil
}

// Install writes our module to the folder name of root, together with netroot-init, which does the
// work on the node.
func Install(root *os.Root, name, init string) error {
	files, err := fs.Sub(module, "module")
	if err != nil {
		return err
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		text, err := fs.ReadFile(files, e.Name())
		if err == nil {
			err = root.WriteFile(filepath.Join(name, e.Name()), text, 0o755)
		}
		if err != nil {
			return err
		}
	}
	text, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	return root.WriteFile(filepath.Join(name, "netroot-init"), text, 0o755)
}

// finish removes what differs from run to run and compresses the archive as the kernel supports it
// best.
func (opt Options) finish(ctx context.Context, r *Result) (made contents, err error) {
	plain := filepath.Join(opt.Dir, plainName)
	in, err := os.Open(plain)
	if err != nil {
		return contents{}, err
	}
	defer in.Close()
	r.Size, err = initramfs.Compress(ctx, opt.Kernel.Config, r.Path, func(w io.Writer) error {
		made, err = timeless(w, in)
		return err
	})
	if err != nil {
		return contents{}, err
	}
	return made, os.Remove(plain)
}

// messageLine is a line of dracut's output. Since dracut 106 it begins with a letter for its level:
// fatal, error, warning, info, debug or trace.
var messageLine = regexp.MustCompile(`^dracut(?:\[([FEWIDT])\])?: (.*?)\s*$`)

// complaint returns the line in which dracut says what is wrong, after ": ": the one about a module
// that was left out, otherwise the last of the highest level.
func complaint(said, module string) string {
	byLevel := map[string]string{}
	for line := range strings.Lines(said) {
		m := messageLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		level, text := m[1], m[2]
		switch {
		case module != "" && strings.Contains(text, "odule '"+module+"' "): // "Module", "dracut module"
			return ": " + text
		case strings.HasPrefix(text, "***"), strings.HasPrefix(text, "Executing: "), strings.Contains(text, " will not be installed"):
		default:
			byLevel[level] = text
		}
	}
	for _, level := range []string{"F", "E", "W", ""} {
		if text := byLevel[level]; text != "" {
			return ": " + text
		}
	}
	return ""
}
