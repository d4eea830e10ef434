package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/api"
	"netroot/internal/boot"
	"netroot/internal/config"
	"netroot/internal/serve"
	"netroot/internal/site"
)

func planCmd(e *env) *cobra.Command {
	var m boot.Machine
	var transport, initramfs, firmware string
	var asJSON, asIPXE bool
	var layers layersFlag
	cmd := &cobra.Command{
		Use:   "plan LABEL[@ID]",
		Short: "Print what a machine that boots a label is told",
		Long: `Plan prints the decision about one machine before the machine boots: the image, the
URLs of its files, and the kernel command line. --arch, --firmware and --mac say
what iPXE would tell the server about the machine.

A running daemon is asked, and its answer is what it would send now. Plan then says
on standard error which revision of the configuration answered, and whether the
file differs from it. Without a daemon, and with --transport, --initramfs or
--layers, the plan is made from the file, for a server on the standard ports.

Exit status: 0 done, 1 no plan is possible, 2 usage or configuration.`,
		Example: `  netroot plan debian12
  netroot plan debian12 --server 10.0.0.1:8010 --ipxe`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.images(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.Ref = args[0]
			if asJSON && asIPXE {
				return usage(errors.New("--ipxe and --json are two forms of the plan: give one of them"))
			}
			if _, err := boot.CheckServer(m.Server); err != nil {
				return usage(fmt.Errorf("--server: %w", err))
			}
			var err error
			if firmware != "" {
				if m.Firmware, err = oneOf("firmware", firmware, boot.Firmwares()); err != nil {
					return err
				}
			}
			if m.Arch, err = boot.ParseArch(m.Arch); err != nil {
				return usage(fmt.Errorf("--arch: %w", err))
			}
			if m.MAC, err = boot.ParseMAC(m.MAC); err != nil {
				return usage(fmt.Errorf("--mac: %w", err))
			}
			add, err := additions(transport, initramfs, layers)
			if err != nil {
				return err
			}
			own := transport != "" || initramfs != "" || add.Layers != nil
			plan, err := e.plan(cmd.Context(), m, add, own)
			if err != nil {
				return err
			}
			if cfg, err := e.config(); err == nil {
				label, _, _ := strings.Cut(plan.Image, "@")
				e.tellCmdline(plan.Cmdline, cfg.Tree(label))
			}
			switch {
			case asJSON:
				return e.json(plan)
			case asIPXE:
				_, err = fmt.Fprint(e.stdout, plan.IPXE())
			default:
				err = e.printIndented(plan.Text(), boot.TextColumn)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&m.Server, "server", "127.0.0.1:8010", "HTTP `address` under which the machine reaches the server")
	cmd.Flags().StringVar(&transport, "transport", "", "nvme, nbd, iscsi, nfs-image, nfs or http (default: the label's `transport`)")
	cmd.Flags().StringVar(&initramfs, "initramfs", "", "netroot or dracut (default: the label's `initramfs`)")
	layers.register(cmd.Flags())
	cmd.Flags().StringVar(&m.Arch, "arch", "", "the machine's `architecture`, such as amd64 or arm64 (default: not known)")
	cmd.Flags().StringVar(&firmware, "firmware", "", "the machine's firmware, `bios` or uefi (default: not known)")
	cmd.Flags().StringVar(&m.MAC, "mac", "", "the MAC `address` from which the machine boots (default: not known)")
	cmd.Flags().BoolVar(&m.Virtio, "virtio", false, "the plan of a virtual machine, which needs no drivers of real hardware")
	cmd.Flags().BoolVar(&asIPXE, "ipxe", false, "as the iPXE script")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// plan decides what a machine is told: the running daemon does, but not with additions of one's
// own.
func (e *env) plan(ctx context.Context, m boot.Machine, add site.Additions, own bool) (boot.Plan, error) {
	cfg, err := e.config()
	arg := m.Ref
	if err == nil {
		m.Ref = imageName(cfg, arg)
	}
	if !own {
		plan, asked, askErr := e.askDaemon(ctx, cfg, err, m)
		if asked {
			return plan, askErr
		}
	}
	if err != nil {
		return boot.Plan{}, err
	}
	_, im, err := openImage(cfg, arg)
	if err != nil {
		return boot.Plan{}, err
	}
	folder := e.layerFolder(cfg, slog.New(slog.DiscardHandler))
	defer folder.Close()
	r := site.Request{
		Machine: m, Image: serve.Facts(im), Label: im.Label, Listen: boot.StandardPorts(), Layers: folder, Add: add,
	}
	if err := e.tellLayers(cfg, folder, r); err != nil {
		return boot.Plan{}, err
	}
	plan, err := cfg.Plan(r)
	return plan, noLayers(err)
}

// askDaemon asks the daemon of the state directory for a plan, and says which revision answers. It
// reports false when there is no daemon to ask. failed is why there is no Site: then a daemon of
// that file answers all the same.
func (e *env) askDaemon(ctx context.Context, cfg *site.Site, failed error, m boot.Machine) (plan boot.Plan, asked bool, err error) {
	say := e.say
	var daemon *api.Client
	revision := site.Revision("")
	if failed != nil {
		if daemon, err = e.daemonOfFile(ctx); err != nil {
			return plan, false, nil // failed says more
		}
	} else {
		revision = cfg.Revision
		of := "plan without a configuration"
		if cfg.Path != "" {
			of = fmt.Sprintf("plan of %s, revision %s", cfg.Path, revision.Short())
		}
		if daemon, err = api.Find(ctx, cfg.Path, api.Sockets(cfg.State)...); err != nil {
			say("%v: %s", err, of)
			return plan, false, nil
		}
	}
	answer, err := daemon.Plan(ctx, m)
	if errors.Is(err, api.ErrNotFound) {
		return plan, true, usage(err)
	}
	if err != nil {
		return plan, true, err
	}
	say("plan of the running daemon, revision %s", answer.Revision.Revision.Short())
	switch {
	case failed != nil:
		say("the file is not in force: %v", failed)
	case answer.Revision.Revision != revision && answer.Revision.Failure != "":
		say("the file, revision %s, is not in force: %s", revision.Short(), answer.Revision.Failure)
	case answer.Revision.Revision != revision:
		say("the file, revision %s, is not in force yet", revision.Short())
	}
	return answer.Plan, true, nil
}

// daemonOfFile is api.Find for a configuration that cannot be read. It names the state directory, so
// that is not known either, without --state.
func (e *env) daemonOfFile(ctx context.Context) (*api.Client, error) {
	file, err := e.configFile, error(nil)
	if file == "" {
		if file, err = config.Find(""); err != nil {
			return nil, err
		}
	}
	if file, err = filepath.Abs(file); err != nil {
		return nil, err
	}
	sockets := api.AllSockets()
	if e.stateDir != "" {
		of := site.Empty()
		if err := e.setState(of); err != nil {
			return nil, err
		}
		sockets = api.Sockets(of.State)
	}
	return api.Find(ctx, file, sockets...)
}
