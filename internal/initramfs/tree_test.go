package initramfs_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"netroot/internal/kernel"
)

const (
	release   = "6.1.0-9-test"
	moduleDir = "usr/lib/modules/" + release
)

// object makes a small ELF file: a module with the given fields in its .modinfo section, or a
// program, with a segment of the given kind if there is one. A text at the end stands for the
// signature of a module.
func object(machine elf.Machine, kind elf.Type, segment elf.ProgType, modinfo ...string) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	info := []byte(strings.Join(modinfo, "\x00") + "\x00")
	head := elf.Header64{
		Type: uint16(kind), Machine: uint16(machine), Version: 1, Ehsize: 64,
		Phoff: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	copy(head.Ident[:], "\x7fELF\x02\x01\x01")
	start := uint64(64 + 56)
	head.Shoff = start + uint64(len(info)+len(names))
	var b bytes.Buffer
	for _, part := range []any{
		head,
		elf.Prog64{Type: uint32(segment)},
		info, []byte(names),
		elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: start, Size: uint64(len(info))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: start + uint64(len(info)), Size: uint64(len(names))},
	} {
		binary.Write(&b, binary.LittleEndian, part)
	}
	return append(b.Bytes(), "~Module signature appended~\n"...)
}

func ko(modinfo ...string) []byte {
	return object(elf.EM_X86_64, elf.ET_REL, elf.PT_NULL, append([]string{"license=GPL"}, modinfo...)...)
}

// deflate compresses data with the method that the suffix of the name says.
func deflate(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch filepath.Ext(name) {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	default:
		return data
	}
	must(t, err)
	_, err = w.Write(data)
	must(t, err, w.Close())
	return b.Bytes()
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree is an image with a kernel whose modules are compressed in all four ways.
type tree struct {
	dir    string
	kernel *kernel.Kernel
	init   string
}

const dep = `kernel/net/packet/af_packet.ko:
kernel/fs/squashfs/squashfs.ko.xz: kernel/lib/zstd.ko.gz
kernel/lib/zstd.ko.gz:
kernel/fs/overlayfs/overlay.ko.zst:
kernel/drivers/block/nbd.ko:
kernel/drivers/virtio/virtio-pci.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/fs/erofs/erofs.ko: kernel/lib/gone.ko
kernel/drivers/net/ethernet/acme/acme.ko.xz: kernel/drivers/net/phy/libphy.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/net/phy/libphy.ko:
kernel/drivers/net/phy/acmephy.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/ptp/ptp.ko:
extra/ofed/drivers/net/ethernet/mellanox/mlx4/mlx4_core.ko: kernel/drivers/ptp/ptp.ko
extra/ofed/drivers/net/ethernet/mellanox/mlx4/mlx4_en.ko: extra/ofed/drivers/net/ethernet/mellanox/mlx4/mlx4_core.ko
kernel/drivers/net/ethernet/mellanox/mlxsw/mlxsw_core.ko:
kernel/drivers/net/wireless/wifi.ko:
kernel/drivers/net/can/can-dev.ko:
kernel/drivers/net/ethernet/acme/broken.ko: kernel/lib/gone.ko
kernel/sound/snd.ko:
`

func makeTree(t testing.TB) tree {
	t.Helper()
	dir := t.TempDir()
	tr := tree{
		dir: dir, init: filepath.Join(t.TempDir(), "netroot-init"),
		kernel: &kernel.Kernel{Release: release, ModuleDir: moduleDir, Config: kernel.Config{"RD_ZSTD": "y", "RD_GZIP": "y"}},
	}
	must(t, os.WriteFile(tr.init, object(elf.EM_X86_64, elf.ET_EXEC, elf.PT_LOAD), 0o755))
	tr.write(t, moduleDir+"/modules.dep", []byte(dep))
	tr.write(t, moduleDir+"/modules.softdep", []byte("softdep acme pre: acmephy\nsoftdep snd pre: acme\n"))
	tr.write(t, moduleDir+"/modules.alias", []byte(`alias pci:v0000ACE0d*sv*sd*bc*sc*i* acme
alias pci:v000015B3d00001003sv*sd*bc*sc*i* mlx4_core
alias virtio:d00000001v* virtio_net
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias pci:v000000AAd*sv*sd*bc*sc*i* snd
`))
	tr.write(t, moduleDir+"/modules.builtin", []byte("kernel/drivers/char/hw_random/virtio-rng.ko\n"))
	for line := range strings.Lines(dep) {
		name, _, _ := strings.Cut(line, ":")
		tr.write(t, moduleDir+"/"+name, moduleData(name))
	}
	must(t, os.Symlink("usr/lib", filepath.Join(dir, "lib")))
	return tr
}

// moduleData returns the decompressed content of a module.
func moduleData(name string) []byte {
	fields := map[string][]string{
		"acme":      {"firmware=acme/raw.bin", "firmware=acme/packed.bin", "firmware=acme/none.bin", "firmware=acme/many-*.bin", "firmware=../../../etc/shadow"},
		"virtio":    {"firmware=acme/packed.bin", "firmware=override.bin"},
		"mlx4_core": {"firmware=linked.bin"},
		"snd":       {"firmware=snd.bin"},
	}
	base, _, _ := strings.Cut(filepath.Base(name), ".")
	return ko(append(fields[base], "name="+base)...)
}

// write writes a file into the tree, compressed as its name says.
func (tr tree) write(t testing.TB, name string, data []byte) {
	t.Helper()
	p := filepath.Join(tr.dir, name)
	must(t, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, deflate(t, name, data), 0o644))
}

// addFirmware adds firmware to the tree in all forms.
func (tr tree) addFirmware(t testing.TB) {
	t.Helper()
	for name, text := range map[string]string{
		"acme/raw.bin": "raw", "acme/packed.bin.xz": "packed", "acme/many-1.bin": "one", "acme/many-2.bin.zst": "two", "acme/unwanted.bin": "no",
		"override.bin": "old", "updates/override.bin.zst": "new", "snd.bin": "no", "real/linked-1.0.bin.xz": "linked",
	} {
		tr.write(t, "usr/lib/firmware/"+name, []byte(text))
	}
	must(t, os.Symlink("real/linked-1.0.bin.xz", filepath.Join(tr.dir, "usr/lib/firmware/linked.bin.xz")))
	tr.write(t, "etc/shadow", []byte("secret"))
}

// tool returns the path of an external program that a test requires.
func tool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing", name)
		}
		t.Skipf("%s is missing", name)
	}
	return p
}
