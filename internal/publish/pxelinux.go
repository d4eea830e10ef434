package publish

import (
	"fmt"
	"path/filepath"
	"strings"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/handoff"
	"netroot/internal/pxetree"
	"netroot/internal/store"
)

// PxelinuxOptions say how machines boot that pxelinux starts.
type PxelinuxOptions struct {
	Transport handoff.Transport // empty: the label's
	OwnServer bool              // the root comes from the site's own server of the transport
	Packed    string            // with OwnServer, the directory of packed roots on the NFS server
	LUN       uint16            // with OwnServer, of the disk in its iSCSI target
	Port      uint16            // of the root's server; 0: the transport's own
	HTTP      string            // URL of the directory, from which lpxelinux fetches; empty: TFTP alone
	Virtio    bool
	Console   []string
	Default   export.Default
}

// Pxelinux is what was, or would be, put into the directory of a TFTP server.
type Pxelinux struct {
	Entry  export.Entry
	Menu   string         // without a directory: the text of pxelinux.cfg/default with this entry alone
	Change pxetree.Change // with a directory
	Layers bool           // the machine gets layers from "netroot serve", as they are now
}

// Pxelinux puts the image, its entry and the loader into the directory.
func (p Image) Pxelinux(o PxelinuxOptions) (Pxelinux, error) {
	plan, err := p.pxelinuxPlan(o)
	if err != nil {
		return Pxelinux{}, err
	}
	base := ""
	if o.HTTP != "" {
		base = strings.TrimSuffix(o.HTTP, "/") + "/"
	}
	out := Pxelinux{Entry: export.Entry{
		Name: p.Request.Machine.Ref, Title: p.title(), Kernel: base + pxetree.FileName(plan.Image, plan.Kernel.Name), Cmdline: plan.Cmdline,
	}}
	for _, a := range plan.Cmdline {
		out.Layers = out.Layers || strings.HasPrefix(a, "netroot.layer=")
	}
	im := pxetree.Image{Name: plan.Image}
	if im.Kernel, err = p.part(plan.Kernel); err != nil {
		return out, err
	}
	for _, file := range plan.Initrds {
		part, err := p.part(file)
		if err != nil {
			return out, err
		}
		im.Initrds = append(im.Initrds, part)
		out.Entry.Initrds = append(out.Entry.Initrds, base+pxetree.FileName(plan.Image, file.Name))
	}
	if p.Dir == "" {
		m, err := export.ParseMenu("", "")
		if err == nil {
			_, err = m.Put(out.Entry, o.Default)
		}
		if err == nil {
			out.Menu = m.Text()
		}
		return out, err
	}
	out.Change, err = pxetree.Write(p.Dir, "/", im, out.Entry, o.Default, o.HTTP != "")
	return out, err
}

// pxelinuxPlan is that of a machine that pxelinux starts. A label with rw has its root over NFS.
func (p Image) pxelinuxPlan(o PxelinuxOptions) (boot.Plan, error) {
	t, l := o.Transport, p.label()
	if l != nil && t == "" {
		t = l.Transport
	}
	if l != nil && t == "" && l.RW {
		t = handoff.NFS
	}
	var elsewhere boot.Elsewhere
	if o.OwnServer {
		switch t {
		case handoff.NBD:
		case handoff.ISCSI:
			elsewhere.LUN = o.LUN
		case handoff.NFS:
			if l == nil {
				return boot.Plan{}, p.noTree("choose another transport")
			}
			elsewhere.Path = l.Tree
		case handoff.NFSImage:
			if !filepath.IsAbs(o.Packed) {
				return boot.Plan{}, WrongOption("--site --transport nfs-image requires --packed DIR, the absolute directory of packed roots that \"netroot export nfs --packed -o DIR\" exports")
			}
			elsewhere.Path = filepath.Join(o.Packed, PackedName(p.Image))
		default:
			return boot.Plan{}, WrongOption("--site requires --transport nbd, iscsi, nfs or nfs-image: \"netroot export\" configures a site's servers of these")
		}
	}
	if o.Port != 0 {
		p.Request.Listen = boot.SamePort(o.Port, handoff.Transports()...)
	}
	p.Request.Add.Console = o.Console
	p.Request.Machine.Virtio = o.Virtio
	return p.plan(t, elsewhere)
}

// part finds the file of the store that a plan names by its digest.
func (p Image) part(f boot.File) (pxetree.File, error) {
	for _, l := range p.Image.Manifest.Layers {
		if handoff.Digest(l.Digest) == f.Digest {
			path, err := Part(p.Image, store.Role(l.Annotations[store.AnnotationRole]))
			return pxetree.File{Name: f.Name, Path: path}, err
		}
	}
	return pxetree.File{}, fmt.Errorf("image %s has no part %s", p.Image.Name(), f.Digest)
}

// title is what the menu shows for the entry.
func (p Image) title() string {
	words := []string{p.Request.Label}
	for _, s := range []string{p.Image.Config.System, p.Image.Config.KernelRelease} {
		if s != "" {
			words = append(words, s)
		}
	}
	return strings.Join(words, ", ") + " (" + p.Image.ID() + ")"
}
