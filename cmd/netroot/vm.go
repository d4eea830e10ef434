package main

import (
	"context"
	"fmt"
	"log/slog"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/config"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/trial"
	"netroot/internal/vm"
)

// vmFlags are the flags of "netroot vm"; those that were not given leave the
// label's configuration as it is.
type vmFlags struct {
	run, serial, key, memory string
	transport, server        string
	initramfs                string
	firmware, accel, pack    string
	sshPort                  uint16
	debug, rw                bool
	layers                   layersFlag
}

func vmCmd(e *env) *cobra.Command {
	var f vmFlags
	cmd := &cobra.Command{
		Use:   "vm LABEL[@ID]",
		Short: "Boot an image diskless in a qemu machine",
		Long: `Vm boots an image the way a real machine does: the firmware starts iPXE from the
network card, iPXE fetches script, kernel and initramfs over HTTP, and the root
comes over the label's transport. Vm requires neither root nor a set-up: qemu's
user network is the DHCP server, and netroot's servers run inside this command.

The machine's serial console is this terminal; Ctrl-C ends the machine. Port 22 is
127.0.0.1:2222. You log in as root with a key that is made for the run; a layer
brings it to the machine, and no image ever has it.

KVM is used where it can boot a kernel, which is tested once. Otherwise qemu
emulates the processor, which is much slower.

Exit status: 0 the machine ended, 1 a failure, 2 usage or configuration; with --run
the exit status of the command.`,
		Example: `  netroot vm debian12
  netroot vm debian12 --run 'findmnt /; systemctl is-system-running --wait'
  netroot vm debian12 --set-key ~/.ssh/id_ed25519.pub --serial console.log
  netroot vm debian12 --transport nbd
  netroot vm debian12 --layers rack7,site          # docs/layers.md
  netroot vm debian12 --transport nfs    # the tree itself, as it is now (root)
  netroot vm debian12 --rw               # the machine writes to the tree (root)
  netroot vm debian12 --server 127.0.0.1:4420  # from a running "netroot serve"
  netroot vm debian12 --transport iscsi --server kernel    # root from tgtd`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.images(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.vm(cmd.Context(), args[0], f, cmd.Flags().Changed)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.run, "run", "", "boot, run `command` as root by ssh, power off, and exit with its status")
	fl.Uint16Var(&f.sshPort, "ssh-port", 2222, "`port` of 127.0.0.1 that leads to the machine's 22; 0 takes a free one")
	fl.StringVar(&f.serial, "serial", "", "write the serial console to `file` instead of this terminal")
	fl.StringVar(&f.key, "set-key", "", "let the owner of this key `file`, public or private, log in (default: a key that is made for the run)")
	fl.StringVar(&f.memory, "mem", "2G", "`size` of the machine's memory")
	fl.StringVar(&f.firmware, "firmware", "bios", "`bios` or uefi")
	fl.StringVar(&f.accel, "accel", "auto", "`auto`, kvm or tcg")
	fl.StringVar(&f.transport, "transport", "", "nvme, nbd, iscsi, nfs-image, nfs or http (default: the label's `transport`)")
	fl.StringVar(&f.initramfs, "initramfs", "", "netroot or dracut (default: the label's `initramfs`)")
	fl.StringVar(&f.pack, "pack", "", "boot the label's newest image that is packed as `format`: squashfs, erofs or erofs-uncompressed")
	fl.StringVar(&f.server, "server", "", "take the root from the server of the transport at this `address` of this host or, with \"kernel\", from a server that is started for the run: nbd-server, tgtd, or the kernel's NFS server in a second machine")
	fl.BoolVar(&f.rw, "rw", false, "let the machine write to the label's tree over NFS, instead of to memory")
	f.layers.register(fl)
	fl.BoolVar(&f.debug, "debug", false, "make the initramfs print everything and start a shell when it fails, keep the serial console in a file, and log what is served")
	return cmd
}

func (e *env) vm(ctx context.Context, ref string, f vmFlags, changed func(string) bool) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	method, err := packOf(f.pack)
	if err != nil {
		return err
	}
	s, im, err := packedImage(cfg, ref, method)
	if err != nil {
		return err
	}
	if err := serve.Facts(im).Bootable(); err != nil {
		return err
	}
	mc, err := f.machine(cfg, im.Label, changed)
	if err != nil {
		return usage(err)
	}
	key, err := f.sshKey()
	if err != nil {
		return usage(err)
	}
	// A terminal gone is an end like Ctrl-C: the machine must not outlive it.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o, err := e.trial(cfg, s, im, f)
	if err != nil {
		return err
	}
	o.Key, o.Accel = key, mc.Accel
	server, err := trial.Start(ctx, o)
	if err != nil {
		return optionUsage(noLayers(err))
	}
	defer server.Close()
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	defer func() { cancel(); <-served }()

	mc.Bootfile = server.Script
	mc.Message = func(text string) { e.say("%s", text) }
	if kernel, ok, err := im.Blob(store.RoleKernel); err == nil && ok {
		mc.Kernel = kernel.Path()
		kernel.Close()
	}
	closeConsole, err := e.console(&mc, f, cfg, im.Label)
	if err != nil {
		return err
	}
	defer closeConsole()
	started := time.Now()
	m, err := vm.Start(ctx, mc)
	if err != nil {
		return err
	}
	defer m.Kill()
	server.Admit(m.Owns)
	e.say("booting %s by %s with %s", im.Name(), m.Accel, mc.Firmware)
	if f.run != "" {
		return e.runInMachine(ctx, m, key, f.run, started)
	}
	forget, err := e.tellLogin(m, key, f)
	if err != nil {
		return err
	}
	defer forget()
	return m.Wait()
}

// machine is the qemu machine that label and flags ask for.
func (f vmFlags) machine(cfg *site.Site, label string, changed func(string) bool) (vm.Config, error) {
	mc := vm.Config{SSHPort: int(f.sshPort), Reboot: true}
	var err error
	if mc.Accel, err = oneOf("accel", f.accel, vm.Accels()); err != nil {
		return vm.Config{}, err
	}
	if mc.Firmware, err = oneOf("firmware", f.firmware, boot.Firmwares()); err != nil {
		return vm.Config{}, err
	}
	memory := int64(2 << 30)
	if l, ok := cfg.Labels[label]; ok {
		memory, mc.Args, mc.Dir = l.VM.Memory, l.Qemu, filepath.Dir(cfg.Path)
		if !changed("firmware") {
			mc.Firmware = l.VM.Firmware
		}
		if !changed("ssh-port") {
			mc.SSHPort = int(l.VM.SSHPort)
		}
	}
	if changed("mem") {
		if memory, err = config.ParseSize(f.memory); err != nil {
			return vm.Config{}, fmt.Errorf("--mem: %w", err)
		}
		mc.Args = append(slices.Clone(mc.Args), "-m", strconv.FormatInt(memory>>20, 10)) // whatever the label's qemu says
	}
	mc.Mem = int(memory >> 20)
	return mc, nil
}

func (f vmFlags) sshKey() (vm.Key, error) {
	if f.key == "" {
		return vm.NewKey()
	}
	key, err := vm.ReadKey(f.key)
	if err == nil && f.run != "" && !key.CanLogIn() {
		err = fmt.Errorf("--run logs in itself and needs the private half of %s", f.key)
	}
	return key, err
}

// trial is what label and flags say about the machine's boot and its servers.
func (e *env) trial(cfg *site.Site, s *store.Store, im *store.Image, f vmFlags) (trial.Options, error) {
	o := trial.Options{
		Site: cfg, Store: s, Image: im, Server: f.server, Log: slog.New(slog.DiscardHandler),
		NFSKey: func() ([32]byte, error) { return serve.NFSKey(cfg.State) },
		Say:    func(text string) { e.say("%s", text) },
	}
	if f.debug {
		o.Log = e.logger(slog.LevelInfo)
	}
	add, err := additions(f.transport, f.initramfs, f.layers)
	if err != nil {
		return o, err
	}
	add.Console = []string{"ttyS0,115200"}
	if vm.HasDisplay(known(cfg, im.Label).Qemu) {
		add.Console = []string{"tty0", "ttyS0,115200"}
	}
	// On a busy host an emulated processor may miss the ticks by which the kernel tests its timer,
	// and then it panics (arch/x86/kernel/apic/io_apic.c, check_timer). KVM's guests leave the test
	// out by themselves.
	add.Cmdline = []string{"no_timer_check"}
	add.Alone = f.server == "" || f.server == trial.KernelServer // the label's other servers have other ports
	add.Debug, add.RW = f.debug, f.rw
	o.Layers = e.layerFolder(cfg, o.Log)
	o.Request = site.Request{Image: serve.Facts(im), Label: im.Label, Layers: o.Layers, Add: add}
	return o, e.tellLayers(cfg, o.Layers, o.Request)
}

// known is the label of that name, or one with every default.
func known(cfg *site.Site, name string) *site.Label {
	if l, ok := cfg.Labels[name]; ok {
		return l
	}
	return cfg.NewLabel(name)
}
