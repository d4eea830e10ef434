package initramfs_test

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/handoff"
	"netroot/internal/initramfs"
	"netroot/internal/kernel"
	"netroot/internal/kmod"
)

func (tr tree) options(t testing.TB) initramfs.Options {
	return initramfs.Options{Tree: tr.dir, Kernel: tr.kernel, Init: tr.init, OutDir: t.TempDir(), Transports: []handoff.Transport{handoff.NBD}}
}

// unpack decompresses a part with the given program, and returns the listing of GNU cpio and the
// directory with the files.
func unpack(t *testing.T, p initramfs.Part, program ...string) (list, dir string) {
	t.Helper()
	cpio := tool(t, "cpio")
	data, err := os.ReadFile(p.Path)
	must(t, err)
	if int64(len(data)) != p.Size {
		t.Errorf("%s has %d bytes, not %d", p.Name, len(data), p.Size)
	}
	if program != nil {
		cmd := exec.Command(tool(t, program[0]), program[1:]...)
		cmd.Stdin = bytes.NewReader(data)
		data, err = cmd.Output()
		must(t, err)
	}
	cmd := exec.Command(cpio, "-it", "--quiet")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	must(t, err)
	dir = t.TempDir()
	// Devices are left out, because they require root.
	cmd = exec.Command(cpio, "-id", "--quiet", "init", "etc/*", "lib/*")
	cmd.Stdin, cmd.Dir = bytes.NewReader(data), dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	return string(out), dir
}

// files removes the directories from a listing.
func files(list string) string {
	var keep strings.Builder
	for line := range strings.Lines(list) {
		if !strings.Contains(list, strings.TrimSpace(line)+"/") {
			keep.WriteString(strings.ReplaceAll(line, release, "R"))
		}
	}
	return keep.String()
}

func TestGenerate(t *testing.T) {
	tr := makeTree(t)
	tr.addFirmware(t)
	parts, err := initramfs.Generate(t.Context(), tr.options(t))
	must(t, err)
	want := map[string]string{
		"base": `dev/console
init
sbin/modprobe
etc/netroot/modules
lib/modules/R/netroot/base.builtin
lib/modules/R/netroot/base.dep
lib/modules/R/netroot/base.alias
lib/modules/R/netroot/base.softdep
lib/modules/R/kernel/drivers/block/nbd.ko
lib/modules/R/kernel/drivers/virtio/virtio-pci.ko
lib/modules/R/kernel/drivers/virtio/virtio.ko
lib/modules/R/kernel/fs/overlayfs/overlay.ko
lib/modules/R/kernel/fs/squashfs/squashfs.ko
lib/modules/R/kernel/lib/zstd.ko
lib/modules/R/kernel/net/packet/af_packet.ko
`,
		"hardware": `lib/modules/R/netroot/hardware.dep
lib/modules/R/netroot/hardware.alias
lib/modules/R/netroot/hardware.softdep
lib/modules/R/extra/ofed/drivers/net/ethernet/mellanox/mlx4/mlx4_core.ko
lib/modules/R/extra/ofed/drivers/net/ethernet/mellanox/mlx4/mlx4_en.ko
lib/modules/R/kernel/drivers/net/ethernet/acme/acme.ko
lib/modules/R/kernel/drivers/net/phy/acmephy.ko
lib/modules/R/kernel/drivers/net/phy/libphy.ko
lib/modules/R/kernel/drivers/ptp/ptp.ko
`,
		"firmware": `lib/firmware/acme/many-1.bin
lib/firmware/acme/many-2.bin
lib/firmware/acme/packed.bin
lib/firmware/acme/raw.bin
lib/firmware/linked.bin
lib/firmware/override.bin
`,
	}
	root := map[string]string{} // the content of all parts
	for _, p := range parts {
		list, dir := unpack(t, p, "zstd", "-dc")
		list = strings.TrimPrefix(list, "dev\netc\nproc\nrun\nsys\nsysroot\ntmp\n")
		if d := cmp.Diff(want[p.Name], files(list)); d != "" {
			t.Errorf("%s: %s", p.Name, d)
		}
		if p.Modules != strings.Count(want[p.Name], ".ko\n") {
			t.Errorf("%s: %d modules", p.Name, p.Modules)
		}
		must(t, os.CopyFS(filepath.Join(tr.init+".d"), os.DirFS(dir)))
		delete(want, p.Name)
	}
	if len(want) > 0 {
		t.Errorf("no %v", want)
	}
	unpacked := tr.init + ".d"
	must(t, filepath.WalkDir(unpacked, func(p string, d os.DirEntry, err error) error {
		if d.Type().IsRegular() {
			data, err := os.ReadFile(p)
			must(t, err)
			root[strings.TrimPrefix(p, unpacked+"/")] = string(data)
		}
		return err
	}))
	checkContents(t, root, tr)
	checkIndex(t, filepath.Join(unpacked, "lib/modules", release))
}

func checkContents(t *testing.T, root map[string]string, tr tree) {
	t.Helper()
	init, _ := os.ReadFile(tr.init)
	for name, want := range map[string]string{
		"init":                                           string(init),
		"etc/netroot/modules":                            "af_packet\nsquashfs\noverlay\n",
		"lib/firmware/acme/many-2.bin":                   "two",
		"lib/firmware/acme/packed.bin":                   "packed",
		"lib/firmware/acme/raw.bin":                      "raw",
		"lib/firmware/linked.bin":                        "linked",
		"lib/firmware/override.bin":                      "new",
		"lib/modules/" + release + "/kernel/lib/zstd.ko": string(moduleData("zstd.ko")),
		"lib/modules/" + release + "/kernel/fs/squashfs/squashfs.ko":           string(moduleData("squashfs.ko")),
		"lib/modules/" + release + "/kernel/fs/overlayfs/overlay.ko":           string(moduleData("overlay.ko")),
		"lib/modules/" + release + "/kernel/drivers/net/ethernet/acme/acme.ko": string(moduleData("acme.ko")),
		"lib/modules/" + release + "/kernel/drivers/net/phy/acmephy.ko":        string(moduleData("acmephy.ko")),
	} {
		if root[name] != want {
			t.Errorf("%s: %q, want %q", name, root[name], want)
		}
	}
}

// checkIndex reads the index as the init does.
func checkIndex(t *testing.T, dir string) {
	t.Helper()
	x, err := kmod.Read(os.DirFS(dir), "netroot")
	must(t, err)
	for alias, want := range map[string]string{
		"pci:v0000ACE0d00000001sv0sd0bc02sc00i00": "acme",
		"pci:v000015B3d00001003sv0sd0bc02sc00i00": "mlx4_core mlx4_en",
		"pci:v00001AF4d00001000sv0sd0bc02sc00i00": "virtio_pci",
		"pci:v000000AAd00001000sv0sd0bc02sc00i00": "",
		"virtio:d00000001v00001AF4":               "",
	} {
		if got := strings.Join(x.Match(alias), " "); got != want {
			t.Errorf("%s asks for %q, want %q", alias, got, want)
		}
	}
	order, err := x.LoadOrder("acme")
	must(t, err)
	got := ""
	for _, m := range order {
		got += m.Name + " "
		if _, err := os.Stat(filepath.Join(dir, m.Path)); err != nil {
			t.Error(err)
		}
	}
	if want := "virtio libphy acmephy acme "; got != want {
		t.Errorf("order %q, want %q", got, want)
	}
	if !x.Builtin("virtio_rng") {
		t.Error("virtio_rng is not known to be built in")
	}
}

func TestGenerateTwice(t *testing.T) {
	tr := makeTree(t)
	tr.addFirmware(t)
	first, err := initramfs.Generate(t.Context(), tr.options(t))
	must(t, err)
	second, err := initramfs.Generate(t.Context(), tr.options(t))
	must(t, err)
	for i := range first {
		a, _ := os.ReadFile(first[i].Path)
		b, _ := os.ReadFile(second[i].Path)
		if len(a) == 0 || !bytes.Equal(a, b) {
			t.Errorf("%s differs", first[i].Name)
		}
	}
}

// TestReuse stores archives by their content, and checks that the next run reuses them.
func TestReuse(t *testing.T) {
	tr := makeTree(t)
	kept := map[string]string{}
	run := func() []initramfs.Part {
		opt := tr.options(t)
		opt.Reuse = func(_ context.Context, content, path string) (bool, error) {
			if kept[content] == "" {
				return false, nil
			}
			return true, os.Link(kept[content], path)
		}
		parts, err := initramfs.Generate(t.Context(), opt)
		must(t, err)
		return parts
	}
	first := run()
	for _, p := range first {
		if p.Reused || p.Content == "" || kept[p.Content] != "" {
			t.Errorf("%+v", p)
		}
		kept[p.Content] = p.Path
	}
	for i, p := range run() {
		want := first[i]
		want.Path, want.Reused = p.Path, true
		if p != want {
			t.Errorf("%+v, want %+v", p, want)
		}
	}
	tr.edit(t, "kernel/net/packet/af_packet.ko", func(s string) string { return s + "x" })
	if again := run(); again[0].Reused || !again[1].Reused {
		t.Errorf("with a changed module of base: %+v", again)
	}
	tr.kernel.Config["RD_ZSTD"] = "n"
	if again := run(); again[1].Reused {
		t.Error("an archive for another kernel was taken")
	}
}

func TestCompression(t *testing.T) {
	tr := makeTree(t)
	for _, c := range []struct {
		config  kernel.Config
		program []string
	}{
		{kernel.Config{"RD_ZSTD": "y", "RD_XZ": "y"}, []string{"zstd", "-dc"}},
		{kernel.Config{"RD_XZ": "y", "RD_GZIP": "y"}, []string{"gzip", "-dc"}},
		{nil, []string{"gzip", "-dc"}},
		{kernel.Config{"RD_LZMA": "y"}, nil},
	} {
		tr.kernel.Config = c.config
		parts, err := initramfs.Generate(t.Context(), tr.options(t))
		must(t, err)
		if list, _ := unpack(t, parts[0], c.program...); !strings.Contains(list, "init\n") {
			t.Errorf("%v: %s", c.config, list)
		}
	}
}

// edit rewrites the tree's modules.dep or another file of its index.
func (tr tree) edit(t *testing.T, name string, change func(string) string) {
	t.Helper()
	p := filepath.Join(tr.dir, moduleDir, name)
	text, err := os.ReadFile(p)
	must(t, err, os.WriteFile(p, []byte(change(string(text))), 0o644))
}

// without drops the lines that contain any of the words.
func without(words ...string) func(string) string {
	return func(text string) string {
		var keep strings.Builder
		for line := range strings.Lines(text) {
			drop := false
			for _, w := range words {
				drop = drop || strings.Contains(line, w)
			}
			if !drop {
				keep.WriteString(line)
			}
		}
		return keep.String()
	}
}

func TestBuiltinModules(t *testing.T) {
	tr := makeTree(t)
	tr.edit(t, "modules.dep", without("af_packet", "overlay", "drivers/net", "virtio"))
	tr.edit(t, "modules.builtin", func(s string) string { return s + "kernel/net/packet/af_packet.ko\n" })
	tr.kernel.Config["OVERLAY_FS"] = "y" // some kernels' modules.builtin is not complete
	opt := tr.options(t)
	opt.Modules = []string{"af-packet", "snd"}
	parts, err := initramfs.Generate(t.Context(), opt)
	must(t, err)
	if len(parts) != 1 {
		t.Fatalf("parts %+v", parts)
	}
	list, dir := unpack(t, parts[0], "zstd", "-dc")
	if text, _ := os.ReadFile(filepath.Join(dir, "etc/netroot/modules")); string(text) != "squashfs\nsnd\n" {
		t.Errorf("transports %q", text)
	}
	if !strings.Contains(list, "sound/snd.ko") {
		t.Errorf("no snd in %s", list)
	}
}

func TestErrorsLeaveNothing(t *testing.T) {
	program := func(machine elf.Machine, kind elf.Type, segment elf.ProgType) func(*testing.T, *tree, *initramfs.Options) {
		return func(t *testing.T, tr *tree, _ *initramfs.Options) {
			must(t, os.WriteFile(tr.init, object(machine, kind, segment), 0o755))
		}
	}
	for _, c := range []struct {
		want   string
		change func(*testing.T, *tree, *initramfs.Options)
	}{
		{"it has no module squashfs (CONFIG_SQUASHFS), nbd (CONFIG_BLK_DEV_NBD): install", func(t *testing.T, tr *tree, _ *initramfs.Options) {
			tr.edit(t, "modules.dep", without("squashfs", "nbd"))
		}},
		{"it has no module erofs (CONFIG_EROFS_FS): install", func(t *testing.T, tr *tree, o *initramfs.Options) {
			tr.edit(t, "modules.dep", without("erofs"))
			o.RootFormat = "erofs"
		}},
		{"erofs requires gone", func(_ *testing.T, _ *tree, o *initramfs.Options) { o.RootFormat = "erofs" }},
		{"squashfs requires zstd", func(t *testing.T, tr *tree, _ *initramfs.Options) {
			tr.edit(t, "modules.dep", without("zstd.ko.gz:"))
		}},
		{"module nonsense: no such module", func(t *testing.T, _ *tree, o *initramfs.Options) { o.Modules = []string{"nonsense"} }},
		{"is not a program", func(t *testing.T, tr *tree, _ *initramfs.Options) {
			must(t, os.WriteFile(tr.init, []byte("#!/bin/sh\n"), 0o755))
		}},
		{"is not static: build it with CGO_ENABLED=0", program(elf.EM_X86_64, elf.ET_DYN, elf.PT_INTERP)},
		{"is for EM_AARCH64, but the kernel of the image is for EM_X86_64", program(elf.EM_AARCH64, elf.ET_EXEC, elf.PT_LOAD)},
		{"is not a program, but has the ELF type ET_REL", program(elf.EM_X86_64, elf.ET_REL, elf.PT_NULL)},
		{"no such file", func(t *testing.T, tr *tree, o *initramfs.Options) { o.Init = tr.init + "x" }},
		{"squashfs.ko.xz: ", func(t *testing.T, tr *tree, _ *initramfs.Options) {
			must(t, os.WriteFile(filepath.Join(tr.dir, moduleDir, "kernel/fs/squashfs/squashfs.ko.xz"), []byte("not xz, and long enough to hold a header"), 0o644))
		}},
		{"nbd.ko: ", func(t *testing.T, tr *tree, _ *initramfs.Options) {
			tr.write(t, moduleDir+"/kernel/drivers/block/nbd.ko", []byte("no object"))
		}},
		{"no such file", func(t *testing.T, tr *tree, _ *initramfs.Options) {
			must(t, os.Remove(filepath.Join(tr.dir, moduleDir, "kernel/drivers/block/nbd.ko")))
		}},
		{"escapes", func(t *testing.T, tr *tree, _ *initramfs.Options) {
			p := filepath.Join(tr.dir, moduleDir, "kernel/drivers/block/nbd.ko")
			must(t, os.Remove(p), os.Symlink(tr.init, p))
		}},
		{"context canceled", nil},
	} {
		tr := makeTree(t)
		opt := tr.options(t)
		ctx, cancel := context.WithCancel(t.Context())
		if c.change == nil {
			cancel()
		} else {
			c.change(t, &tr, &opt)
		}
		parts, err := initramfs.Generate(ctx, opt)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), release) {
			t.Errorf("%v %v, want %q", parts, err, c.want)
		}
		if left, _ := os.ReadDir(opt.OutDir); len(left) > 0 {
			t.Errorf("%s: left %v", c.want, left)
		}
	}

	tr := makeTree(t)
	opt := tr.options(t)
	opt.OutDir = filepath.Join(opt.OutDir, "none")
	if _, err := initramfs.Generate(t.Context(), opt); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory for the archives: %v", err)
	}
}

// BenchmarkGenerate makes the archives of the newest kernel in NETROOT_BENCH_TREE, with the init of
// NETROOT_BENCH_INIT or a small one.
func BenchmarkGenerate(b *testing.B) {
	dir := os.Getenv("NETROOT_BENCH_TREE")
	if dir == "" {
		b.Skip("NETROOT_BENCH_TREE names no tree")
	}
	k, err := kernel.Find(dir, "")
	must(b, err)
	opt := initramfs.Options{Tree: dir, Kernel: k, Init: os.Getenv("NETROOT_BENCH_INIT"), OutDir: b.TempDir()}
	if opt.Init == "" {
		opt.Init = filepath.Join(b.TempDir(), "init")
		must(b, os.WriteFile(opt.Init, object(elf.EM_X86_64, elf.ET_EXEC, elf.PT_LOAD), 0o755))
	}
	for b.Loop() {
		parts, err := initramfs.Generate(b.Context(), opt)
		must(b, err)
		for _, p := range parts {
			b.ReportMetric(float64(p.Size)/(1<<20), p.Name+"-MiB")
		}
	}
}

// TestTransports checks that a transport is supported if the kernel has all its modules, except for
// those that newer kernels do not require. A module may have only an alias.
func TestTransports(t *testing.T) {
	tr := makeTree(t)
	add := func(modules, aliases string) {
		tr.edit(t, "modules.dep", func(s string) string { return s + modules })
		tr.edit(t, "modules.alias", func(s string) string { return s + aliases })
	}
	for _, step := range []struct {
		modules, aliases string
		want             []handoff.Transport
	}{
		{"", "", []handoff.Transport{handoff.NBD}},
		{"kernel/drivers/scsi/iscsi_tcp.ko:\n", "", []handoff.Transport{handoff.NBD}},
		{"kernel/drivers/scsi/scsi_disk.ko:\n", "alias sd_mod scsi_disk\n", []handoff.Transport{handoff.NBD, handoff.ISCSI}},
	} {
		add(step.modules, step.aliases)
		got, err := initramfs.Transports(tr.dir, tr.kernel)
		must(t, err)
		if d := cmp.Diff(step.want, got); d != "" {
			t.Error(d)
		}
	}
}

// What the image's modprobe.d keeps out is known to the init.
func TestKeptOut(t *testing.T) {
	tr := makeTree(t)
	for _, c := range []struct{ file, text, want string }{
		{"etc/modprobe.d/site.conf", "blacklist acme\nblacklist snd-pcsp\n", "acme\nsnd_pcsp\n"},
		{"etc/modprobe.d/site.conf", "# nothing\n", "(none)"},
	} {
		name := filepath.Join(tr.dir, c.file)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, []byte(c.text), 0o644))
		parts, err := initramfs.Generate(t.Context(), tr.options(t))
		must(t, err)
		_, dir := unpack(t, parts[0], "zstd", "-dc")
		got, err := os.ReadFile(filepath.Join(dir, "etc/netroot/keptout"))
		if err != nil {
			got = []byte("(none)")
		}
		if string(got) != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}
