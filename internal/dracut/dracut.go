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
	if err := opt.run(ctx, t, append(add, "netroot")); err != nil {
		return nil, err
	}
	r.Size, err = opt.finish(ctx, r.Path)
	return r, err
}

// run has dracut write an archive, not compressed, into Dir.
func (opt Options) run(ctx context.Context, t tree, modules []string) error {
	folder, err := opt.modules(t)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	out := io.MultiWriter(opt.Log, &said)
	s := sandbox.Sandbox{
		Root: opt.Tree, Name: "dracut", ReadOnly: true, Stdout: out, Stderr: out,
		// Every tree has /tmp, and it is never the tree's own.
		Binds: []sandbox.Bind{{Source: opt.Dir, Target: "/tmp"}, {Source: folder, Target: modulesDir, ReadOnly: true}},
	}
	argv := []string{
		program, "--force", "--no-hostonly", "--no-hostonly-cmdline", "--no-early-microcode", "--no-compress",
		"--filesystems", filesystems, "--tmpdir", "/tmp", "--kver", opt.Kernel.Release, "--add", strings.Join(modules, " "), "--omit", strings.Join(omitted, " "),
	}
	if t.contains(program, "--reproducible") { // not in EL 7
		argv = append(argv, "--reproducible")
	}
	if err := s.Run(ctx, append(argv, "/tmp/"+plainName)); err != nil {
		return fmt.Errorf("%w%s", err, complaint(said.String()))
	}
	included := includes(said.String())
	for _, name := range modules {
		if !slices.Contains(included, name) {
			return fmt.Errorf("dracut left its module %s out%s", name, complaint(said.String()))
		}
	}
	return nil
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
func (opt Options) finish(ctx context.Context, path string) (int64, error) {
	plain := filepath.Join(opt.Dir, plainName)
	in, err := os.Open(plain)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	size, err := initramfs.Compress(ctx, opt.Kernel.Config, path, func(w io.Writer) error { return timeless(w, in) })
	if err != nil {
		return 0, fmt.Errorf("initramfs of dracut: %w", err)
	}
	return size, os.Remove(plain)
}

var includedLine = regexp.MustCompile(`\*\*\* Including module: (\S+) \*\*\*`)

// includes lists the modules that dracut reported as included.
func includes(said string) []string {
	var out []string
	for _, m := range includedLine.FindAllStringSubmatch(said, -1) {
		out = append(out, m[1])
	}
	return out
}

// complaint is the last line in which dracut may have said what is wrong.
func complaint(said string) string {
	last := ""
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "dracut: "); ok && !strings.HasPrefix(text, "***") && !strings.Contains(text, "will not be installed") {
			last = ": " + text
		}
	}
	return last
}
