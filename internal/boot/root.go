package boot

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"netroot/internal/handoff"
)

// naming is the authority in the qualified names of what we serve. The names are the same on every
// server, so that two that serve one image are two paths to one disk; "invalid" is a domain that
// nobody has (RFC 2606).
const naming = "2026-11.invalid.netroot:"

// NQN is the name of an image as an NVMe subsystem (NVMe Base Specification 2.0, 4.5), IQN that as
// an iSCSI target (RFC 7143, 4.2.7). The image is named as in Image.Name.
func NQN(image string) string { return "nqn." + naming + qualified(image) }

// IQN is described at NQN.
func IQN(image string) string { return "iqn." + naming + qualified(image) }

// qualified are the characters that both kinds of names allow.
func qualified(image string) string { return strings.NewReplacer("@", ":", "_", "-").Replace(image) }

// ImageOf is the image that an NQN or IQN of ours names, by its ID.
func ImageOf(name string) (id string, ok bool) {
	if len(name) < 4 {
		return "", false
	}
	rest, ok := strings.CutPrefix(name[4:], naming)
	i := strings.LastIndexByte(rest, ':')
	return rest[i+1:], ok && i > 0
}

// root says where the packed root is found.
func root(base, host string, im Image, s Settings) (handoff.Root, error) {
	t, err := transport(im, s)
	if err != nil {
		return handoff.Root{}, err
	}
	r := handoff.Root{Transport: t, FSType: im.RootFormat}
	r.Servers, r.Port = []string{host}, s.Ports.Of(t)
	for _, server := range s.Servers {
		if err := handoff.CheckHost(server); err != nil {
			return handoff.Root{}, fmt.Errorf("servers: %w", err)
		}
		if !slices.Contains(r.Servers, server) {
			r.Servers = append(r.Servers, server)
		}
	}
	switch t {
	case handoff.HTTP:
		r.URL, r.Servers, r.Port = base+BlobPath+string(im.Root.Digest), r.Servers[1:], 0
		return r, nil
	case handoff.ISCSI:
		r.LUN = s.Elsewhere.LUN
	case handoff.NFS:
		r.Servers = r.Servers[:1] // each server has a tree of its own
		r.FSType, r.Name, r.MountOptions = "nfs", cmp.Or(s.Elsewhere.Path, TreePath(im.label())), nfsOptions(r.Port, s)
		return r, nil
	case handoff.NFSImage:
		r.Name = ImagesPath + im.Root.Digest.Hex()
		if s.Elsewhere.Path != "" {
			r.Name = s.Elsewhere.Path
			if r.Port == handoff.DefaultNFSPort {
				r.Port = 0 // one that is named would be asked for MOUNT, too
			}
		}
		return r, nil
	}
	r.Name = map[handoff.Transport]string{handoff.NBD: im.Name, handoff.NVMe: NQN(im.Name), handoff.ISCSI: IQN(im.Name)}[t]
	return r, nil
}

// TreePath is where the NFS server exports a label's tree, ImagesPath the directory of the packed
// roots, each named by the hexadecimal digits of its digest.
func TreePath(label string) string { return "/" + label }

// ImagesPath is described at TreePath. No label is called so.
const ImagesPath = "/.images/"

func (im Image) label() string {
	label, _, _ := strings.Cut(im.Name, "@")
	return label
}

// nfsOptions are those of nfs(5), for a server of ours, which answers MOUNT on the same port, and
// for others. Locks are the node's own: nobody shares what it writes.
func nfsOptions(port uint16, s Settings) []string {
	options := []string{"ro", "vers=3", "tcp", "nolock"}
	if s.RW {
		options[0] = "rw"
	}
	mount := port
	if s.Elsewhere.Path != "" {
		mount = s.Elsewhere.MountPort
	}
	if port != handoff.DefaultNFSPort || mount != 0 {
		options = append(options, "port="+strconv.Itoa(int(port)))
	}
	if mount != 0 {
		options = append(options, "mountport="+strconv.Itoa(int(mount)))
	}
	return options
}

// transport is the one that the settings ask for, or the first that kernel, initramfs and server
// have.
func transport(im Image, s Settings) (handoff.Transport, error) {
	kernel := func(t handoff.Transport) bool { return slices.Contains(im.Transports, t) }
	initramfs := func(t handoff.Transport) bool {
		return s.Initramfs != handoff.Dracut || slices.Contains(im.DracutTransports, t)
	}
	served := func(t handoff.Transport) bool { return s.Ports.Serves(t) && s.Withheld[ServerOf(t)] == "" }
	t := s.Transport
	if s.RW && t == "" {
		t = handoff.NFS
	}
	if t != "" {
		switch {
		case s.RW && t != handoff.NFS:
			return "", fmt.Errorf("a node cannot write to its root over %s: rw requires the transport nfs", t)
		case !kernel(t):
			return "", fmt.Errorf("its kernel %s cannot take a root over %s: choose another transport", im.KernelRelease, t)
		case !initramfs(t):
			return "", fmt.Errorf("its initramfs of dracut cannot attach a root over %s: it has %s; the build named the packages that the others require", t, words(im.DracutTransports))
		case s.Withheld[ServerOf(t)] != "":
			return "", fmt.Errorf("this server does not serve %s to nodes: %s", t, s.Withheld[ServerOf(t)])
		case !served(t):
			return "", fmt.Errorf("this server does not serve %s, which the label asks for", t)
		}
		return t, nil
	}
	for _, t := range handoff.Transports() {
		// A root in memory costs all of it, and a tree is no image: those are for labels that ask
		// for them.
		if kernel(t) && initramfs(t) && served(t) && t != handoff.HTTP && t != handoff.NFS {
			return t, nil
		}
	}
	if s.Initramfs == handoff.Dracut {
		return "", fmt.Errorf("its initramfs of dracut can attach a root over %s, and none of these is served", words(im.DracutTransports))
	}
	return "", fmt.Errorf("its kernel %s can take a root over none of the transports that are served", im.KernelRelease)
}

func words(ts []handoff.Transport) string {
	if len(ts) == 0 {
		return "no transport"
	}
	var out []string
	for _, t := range ts {
		out = append(out, string(t))
	}
	return strings.Join(out, ", ")
}
