package main

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/serve"
)

func planCmd(e *env) *cobra.Command {
	var server string
	var transport, initramfs string
	var asJSON, asIPXE, virtio bool
	var layers layersFlag
	cmd := &cobra.Command{
		Use:   "plan LABEL[@ID]",
		Short: "Print what a machine that boots a label is told",
		Long: `Plan prints the decision about one machine before any machine boots: the image,
where its files come from, and the kernel command line. "netroot serve" on the
standard ports sends exactly this.`,
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
			set, err := settings(cfg, im.Label)
			if err != nil {
				return err
			}
			stack, err := layers.stack(e.layerFolder(cfg, slog.New(slog.DiscardHandler)), cfg, im.Label)
			if err != nil {
				return err
			}
			if err := stack.tell(e); err != nil {
				return err
			}
			if err := stack.addTo(&set); err != nil {
				return err
			}
			set.Ports = map[handoff.Transport]uint16{handoff.NVMe: handoff.DefaultNVMePort, handoff.NBD: handoff.DefaultNBDPort, handoff.ISCSI: handoff.DefaultISCSIPort,
				handoff.NFS: handoff.DefaultNFSPort, handoff.NFSImage: handoff.DefaultNFSPort}
			if transport != "" {
				if set.Transport, err = transportOf(transport); err != nil {
					return err
				}
			}
			if set.Initramfs, err = flavourOf(initramfs, set.Initramfs); err != nil {
				return err
			}
			plan, err := boot.Decide(boot.Machine{Server: server, Ref: args[0], Virtio: virtio}, serve.Facts(im), set)
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				enc := json.NewEncoder(e.stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(plan)
			case asIPXE:
				_, err = fmt.Fprint(e.stdout, plan.IPXE())
			default:
				_, err = fmt.Fprint(e.stdout, plan.Text())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&server, "server", "127.0.0.1:8010", "HTTP `address` under which the machine reaches the server")
	cmd.Flags().StringVar(&transport, "transport", "", "nvme, nbd, iscsi, nfs-image, nfs or http (default: the label's `transport`)")
	cmd.Flags().StringVar(&initramfs, "initramfs", "", "netroot or dracut (default: the label's `initramfs`)")
	layers.register(cmd.Flags())
	cmd.Flags().BoolVar(&virtio, "virtio", false, "the plan of a virtual machine, which needs no drivers of real hardware")
	cmd.Flags().BoolVar(&asIPXE, "ipxe", false, "as the iPXE script")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.MarkFlagsMutuallyExclusive("ipxe", "json")
	return cmd
}
