package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/term"
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
URLs of its files, and the kernel command line. "netroot serve" on the standard
ports sends exactly this. --arch, --firmware and --mac say what iPXE would tell the
server about the machine.

Exit status: 0 done, 1 no plan is possible, 2 usage or configuration.`,
		Example: `  netroot plan debian12
  netroot plan debian12 --server 10.0.0.1:8010 --ipxe`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.completeLabels,
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := e.config()
			if err != nil {
				return err
			}
			_, im, err := openImage(cfg, args[0])
			if err != nil {
				return err
			}
			m.Ref = args[0]
			if firmware != "" {
				if m.Firmware, err = oneOf("firmware", firmware, boot.Firmwares()); err != nil {
					return err
				}
			}
			if m.MAC, err = boot.ParseMAC(m.MAC); err != nil {
				return usage(fmt.Errorf("--mac: %w", err))
			}
			folder := e.layerFolder(cfg, slog.New(slog.DiscardHandler))
			r := site.Request{
				Machine: m, Image: serve.Facts(im), Label: im.Label, Listen: boot.StandardPorts(), Layers: folder,
			}
			if r.Add, err = additions(transport, initramfs, layers); err != nil {
				return err
			}
			if err := e.tellLayers(cfg, folder, r); err != nil {
				return err
			}
			plan, err := cfg.Plan(r)
			if err != nil {
				return noLayers(err)
			}
			switch {
			case asJSON:
				return term.JSON(e.stdout, plan)
			case asIPXE:
				_, err = fmt.Fprint(e.stdout, plan.IPXE())
			default:
				_, err = fmt.Fprint(e.stdout, plan.Text())
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
	cmd.MarkFlagsMutuallyExclusive("ipxe", "json")
	return cmd
}
