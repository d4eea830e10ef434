package boot

import (
	"fmt"
	"slices"
	"strings"

	"netroot/internal/handoff"
)

// naming is the authority in the qualified names of what we serve. The names are the same on every server, so that two
// that serve one image are two paths to one disk; "invalid" is a domain that nobody has (RFC 2606).
const naming = "2026-11.invalid.netroot:"

// NQN is the name of an image as an NVMe subsystem (NVMe Base Specification 2.0, 4.5), IQN that as an iSCSI target
// (RFC 7143, 4.2.7). The image is named as in Image.Name.
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
	if t == handoff.HTTP {
		r.URL = base + BlobPath + im.Root.Digest
		return r, nil
	}
	r.Servers, r.Port = append([]string{host}, s.Servers...), s.Ports[t]
	if t == handoff.ISCSI {
		r.LUN = s.LUN
	}
	r.Name = map[handoff.Transport]string{handoff.NBD: im.Name, handoff.NVMe: NQN(im.Name), handoff.ISCSI: IQN(im.Name)}[t]
	return r, nil
}

// transport is the one that the settings ask for, or the first that both kernel and server have.
func transport(im Image, s Settings) (handoff.Transport, error) {
	kernel := func(t handoff.Transport) bool { return slices.Contains(im.Transports, t) }
	served := func(t handoff.Transport) bool { return t == handoff.HTTP || s.Ports[t] != 0 }
	if t := s.Transport; t != "" {
		switch {
		case !kernel(t):
			return "", fmt.Errorf("its kernel %s cannot take a root by %s: choose another transport", im.KernelRelease, t)
		case !served(t):
			return "", fmt.Errorf("this server does not serve %s, which the label asks for", t)
		}
		return t, nil
	}
	for _, t := range handoff.Transports() {
		// A root in memory costs all of it: that is for those who ask for it.
		if kernel(t) && served(t) && t != handoff.HTTP {
			return t, nil
		}
	}
	return "", fmt.Errorf("its kernel %s can take a root by none of the transports that are served", im.KernelRelease)
}
