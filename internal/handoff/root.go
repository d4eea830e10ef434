package handoff

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Transport is how the root reaches the node.
type Transport string

// The transports. Each is one word of root= and one file in package nodeinit.
const (
	NBD      Transport = "nbd"       // a network block device
	NVMe     Transport = "nvme"      // NVMe over TCP
	ISCSI    Transport = "iscsi"     // a SCSI disk over TCP
	NFSImage Transport = "nfs-image" // the packed root as a file over NFS
	NFS      Transport = "nfs"       // a tree over NFS, as it is at the moment
	HTTP     Transport = "http"      // the whole image, fetched into memory
)

// Ports that IANA registered, or that are in general use.
const (
	DefaultNBDPort   = 10809
	DefaultNVMePort  = 4420
	DefaultISCSIPort = 3260
	DefaultNFSPort   = 2049
)

// Transports lists the transports that a root= argument can name, the preferred
// one first.
func Transports() []Transport { return []Transport{NVMe, NBD, ISCSI, NFSImage, NFS, HTTP} }

// Root says where the root filesystem is.
type Root struct {
	Transport    Transport
	Servers      []string // host names or addresses, in the order to try; for HTTP those after the URL's
	Port         uint16   // of all of them; 0: the transport's own
	Name         string   // NBD export (empty: the server's default), NVMe subsystem, iSCSI target, path of an NFS server
	LUN          uint16   // iSCSI only: which of the target's units is the disk
	URL          string   // HTTP only; may end in the digest, "sha256:" and 64 hexadecimal digits
	FSType       string   // file system type; empty: probe. "nfs" or "nfs4" for NFS
	MountOptions []string // mount options of the packed root, "ro" implied; for NFS those of nfs(5), and "rw" makes the root writable
}

// Module is a kernel module, by name or alias and by the option that builds it.
type Module struct {
	Name, Option string
	Optional     bool // not every kernel has it; one that requires it asks for it
}

// Modules are those that a transport needs. No device asks for them: the
// generator puts them into the initramfs, and the init loads them by name. What
// has only an alias, as the crypto algorithm crc32c, the kernel asks for itself.
func (t Transport) Modules() []Module {
	switch t {
	case NBD:
		return []Module{{Name: "nbd", Option: "BLK_DEV_NBD"}}
	case NVMe:
		return []Module{{Name: "nvme_tcp", Option: "NVME_TCP"}}
	case ISCSI:
		// From Linux 6.16 on iscsi_tcp computes CRC32C without the crypto layer.
		return []Module{{Name: "iscsi_tcp", Option: "ISCSI_TCP"}, {Name: "sd_mod", Option: "BLK_DEV_SD"}, {Name: "crc32c", Option: "CRYPTO_CRC32C", Optional: true}}
	case NFS:
		return nfsModules
	case NFSImage:
		return append([]Module{{Name: "loop", Option: "BLK_DEV_LOOP"}}, nfsModules...)
	case HTTP:
		return []Module{{Name: "loop", Option: "BLK_DEV_LOOP"}}
	}
	return nil
}

// DefaultPort is the port of a transport's server where none is named. It is 0 for HTTP, whose URL
// names it.
func (t Transport) DefaultPort() uint16 {
	switch t {
	case NBD:
		return DefaultNBDPort
	case NVMe:
		return DefaultNVMePort
	case ISCSI:
		return DefaultISCSIPort
	case NFS, NFSImage:
		return DefaultNFSPort
	}
	return 0
}

// port is the port to connect to.
func (r Root) port() uint16 {
	if r.Port != 0 {
		return r.Port
	}
	return r.Transport.DefaultPort()
}

// Addresses are the servers' hosts and ports, for dialling.
func (r Root) Addresses() []string {
	out := make([]string, len(r.Servers))
	for i, s := range r.Servers {
		out[i] = bracket(s) + ":" + strconv.Itoa(int(r.port()))
	}
	return out
}

// Digest is the digest that the image of an HTTP root must have, or empty.
func (r Root) Digest() Digest {
	u, err := url.Parse(r.URL)
	if err != nil {
		return ""
	}
	d, _ := ParseDigest(path.Base(u.Path))
	return d
}

// URLs are those of an HTTP root, in the order to try.
func (r Root) URLs() []string {
	scheme, _, rest := cutURL(r.URL)
	urls := []string{r.URL}
	for _, s := range r.Servers {
		urls = append(urls, scheme+bracket(s)+rest)
	}
	return urls
}

// cutURL cuts a URL before and behind its hosts, of which there may be several, with commas
// between: the port is in rest, and everyone's. hosts is empty if it is not the URL of a server.
func cutURL(raw string) (scheme, hosts, rest string) {
	scheme, rest, _ = strings.Cut(raw, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if colon := strings.LastIndexByte(rest[:end], ':'); colon > strings.LastIndexByte(rest[:end], ']') {
		end = colon
	}
	return scheme + "://", rest[:end], rest[end:]
}

// String renders r as the value of root=. Where dracut has a syntax it is
// dracut's, with two additions: several servers, with commas between, and an NBD
// root with both port and export, PORT/EXPORT, where dracut takes either.
//
//	nbd:SERVERS:PORT-or-EXPORT:FSTYPE:OPTIONS     (one more field, options of nbd-client, is read)
//	iscsi:SERVERS:PROTOCOL:PORT:LUN:TARGET
//	live:URL                                      (with commas between hosts: ours)
//	nfs:SERVERS:PATH:OPTIONS, nfs4:...
//	live:nfs://SERVERS:PORT/PATH                  (ours)
//	nvme:SERVERS:PORT:FSTYPE:OPTIONS:SUBSYSTEM    (ours)
func (r Root) String() string {
	var servers []string
	for _, s := range r.Servers {
		servers = append(servers, bracket(s))
	}
	list, options := strings.Join(servers, ","), ""
	if !r.flagsApart() {
		options = strings.Join(r.MountOptions, ",")
	}
	switch r.Transport {
	case NVMe:
		return strings.Join([]string{"nvme", list, portOr(r.Port, ""), r.FSType, options, r.Name}, ":")
	case ISCSI:
		return strings.Join([]string{"iscsi", list, "", portOr(r.Port, ""), portOr(r.LUN, ""), r.Name}, ":")
	case NFS:
		return strings.TrimRight(strings.Join([]string{r.FSType, list, r.Name, options}, ":"), ":")
	case NFSImage:
		if r.Port != 0 {
			list += ":" + portOr(r.Port, "")
		}
		return "live:nfs://" + list + r.Name
	case HTTP:
		scheme, host, rest := cutURL(r.URL)
		return "live:" + scheme + strings.Join(append([]string{host}, servers...), ",") + rest
	}
	where := r.Name
	if r.Port != 0 && r.Port != DefaultNBDPort || r.Name == "" || numeric(r.Name) {
		where = strconv.Itoa(int(r.port()))
		if r.Name != "" {
			where += "/" + r.Name
		}
	}
	return strings.TrimRight(strings.Join([]string{"nbd", list, where, r.FSType, options}, ":"), ":")
}

// arguments are those that r needs beside root=: what its syntax has no place for.
func (r Root) arguments() []string {
	args := []string{"root=" + r.String()}
	if r.bare() && r.FSType != "" {
		args = append(args, "rootfstype="+r.FSType)
	}
	if r.flagsApart() && len(r.MountOptions) > 0 {
		args = append(args, "rootflags="+strings.Join(r.MountOptions, ","))
	}
	return args
}

// bare tells whether root= of this transport says nothing of the mount.
func (r Root) bare() bool {
	return r.Transport == ISCSI || r.Transport == HTTP || r.Transport == NFSImage
}

// flagsApart tells whether mount options have no place in root=. One with a colon, such as an IPv6
// address, has none between colons.
func (r Root) flagsApart() bool {
	return r.bare() || slices.ContainsFunc(r.MountOptions, func(o string) bool { return strings.Contains(o, ":") })
}

// portOr renders a port, or a LUN, and one that is 0 as none.
func portOr(port uint16, none string) string {
	if port == 0 {
		return none
	}
	return strconv.Itoa(int(port))
}

// ParseRoot reads the value of root= or netroot=.
func ParseRoot(value string) (Root, error) {
	word, rest, _ := strings.Cut(value, ":")
	switch word {
	case "nbd":
		return parseNBD(splitColons(rest))
	case "nvme":
		return parseNVMe(splitColons(rest))
	case "iscsi":
		return parseISCSI(splitColons(rest))
	case "nfs", "nfs4":
		return parseNFS(word, splitColons(rest))
	case "live":
		return parseLive(rest)
	}
	return Root{}, fmt.Errorf("%q is not a transport of this initramfs, which has nbd, nvme, iscsi, nfs, nfs4 and live", word)
}

func parseNBD(f []string) (Root, error) {
	r, err := servers(NBD, field(f, 0))
	if err != nil {
		return Root{}, fmt.Errorf("%w: expected nbd:SERVER:PORT-or-EXPORT:FSTYPE:OPTIONS", err)
	}
	port, export, both := strings.Cut(field(f, 1), "/")
	switch {
	case !numeric(port):
		r.Name = field(f, 1)
	case both:
		r.Name = export
		fallthrough
	default:
		if r.Port, err = parsePort(port); err != nil {
			return Root{}, err
		}
	}
	r.FSType, r.MountOptions = field(f, 2), list(field(f, 3))
	if name, ok := clientExport(list(field(f, 4))); ok {
		r.Name = name
	}
	return r, nil
}

func parseNVMe(f []string) (Root, error) {
	const form = "expected nvme:SERVER:PORT:FSTYPE:OPTIONS:SUBSYSTEM"
	r, err := servers(NVMe, field(f, 0))
	if err != nil {
		return Root{}, fmt.Errorf("%w: %s", err, form)
	}
	if len(f) < 5 || f[4] == "" {
		return Root{}, errors.New("no subsystem is named: " + form)
	}
	if r.Port, err = parsePort(f[1]); err != nil {
		return Root{}, err
	}
	r.FSType, r.MountOptions = f[2], list(f[3])
	r.Name = strings.Join(f[4:], ":") // a qualified name has colons of its own
	return r, nil
}

func parseISCSI(f []string) (Root, error) {
	const form = "expected iscsi:SERVER:PROTOCOL:PORT:LUN:TARGET"
	if strings.Contains(field(f, 0), "@") {
		return Root{}, errors.New("every user of the node can read a password on the kernel command line")
	}
	r, err := servers(ISCSI, field(f, 0))
	if err != nil {
		return Root{}, fmt.Errorf("%w: %s", err, form)
	}
	if len(f) < 5 || f[4] == "" {
		return Root{}, errors.New("no target is named: " + form)
	}
	if r.Port, err = parsePort(f[2]); err != nil {
		return Root{}, err
	}
	if r.LUN, err = parseLUN(f[3]); err != nil {
		return Root{}, err
	}
	r.Name = strings.Join(f[4:], ":")
	return r, nil
}

func parseLive(raw string) (Root, error) {
	if where, ok := strings.CutPrefix(raw, "nfs://"); ok {
		return parseNFSImage(where)
	}
	scheme, hosts, rest := cutURL(raw)
	r, err := servers(HTTP, hosts)
	if err == nil {
		r.URL, r.Servers = scheme+bracket(r.Servers[0])+rest, r.Servers[1:]
	}
	for _, s := range r.URLs() {
		u, e := url.Parse(s)
		if err != nil || e != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return Root{}, errors.New("expected live:http://HOST/PATH or live:nfs://HOST/PATH")
		}
	}
	if len(r.Servers) == 0 {
		r.Servers = nil
	}
	return r, nil
}

func servers(t Transport, text string) (Root, error) {
	r := Root{Transport: t}
	for s := range strings.SplitSeq(text, ",") {
		if s = unbracket(s); s != "" {
			r.Servers = append(r.Servers, s)
		}
	}
	if r.Servers == nil {
		return Root{}, errors.New("no server is named")
	}
	return r, nil
}

// parsePort reads a port; none is 0, the transport's own.
func parsePort(s string) (uint16, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port", s)
	}
	return uint16(n), nil
}

// parseLUN reads the number of a logical unit; none is 0. From 16384 on, numbers
// mean something else than the order of units (SAM-5, 4.7.5).
func parseLUN(s string) (uint16, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n >= 1<<14 {
		return 0, fmt.Errorf("LUN %q: expected a number from 0 to 16383", s)
	}
	return uint16(n), nil
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func unbracket(s string) string {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return s[1 : len(s)-1]
	}
	return s
}

// splitColons cuts at colons outside of [brackets], which hold IPv6 addresses.
func splitColons(s string) []string {
	var fields []string
	depth, start := 0, 0
	for i, r := range s {
		switch {
		case r == '[':
			depth++
		case r == ']' && depth > 0:
			depth--
		case r == ':' && depth == 0:
			fields = append(fields, s[start:i])
			start = i + 1
		}
	}
	return append(fields, s[start:])
}

func field(fields []string, i int) string {
	if i < len(fields) {
		return fields[i]
	}
	return ""
}

// CheckHost takes what can name a server: an IP address without a zone, or a name of letters,
// digits, hyphens, underscores and dots (RFC 952, RFC 1123, and what people use). The text goes
// into boot scripts and kernel arguments, so nothing else may pass.
func CheckHost(host string) error {
	if strings.Contains(host, ":") {
		if addr, err := netip.ParseAddr(host); err != nil || addr.Zone() != "" {
			return fmt.Errorf("%q is not an IPv6 address without a zone", host)
		}
		return nil
	}
	if host == "" || len(host) > 253 {
		return errors.New("the server's name is empty or longer than 253 bytes")
	}
	for label := range strings.SplitSeq(host, ".") {
		odd := strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		})
		if label == "" || len(label) > 63 || odd {
			return fmt.Errorf("%q is not a host name", host)
		}
	}
	return nil
}

func numeric(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
