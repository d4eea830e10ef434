package rpmrepo

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// deb is a downloaded Debian package.
type deb struct {
	path    string
	control map[string]string // deb-control(5); only the first line of each value
	config  []string          // conffiles
}

func (d *deb) name() string { return d.control["Package"] }

// download fetches packages and all their dependencies, as for a machine without any package, with
// the host's apt and its sources. If the host's package lists are older than the archive, this
// fails; download then fetches the lists again, into its own directory.
func (b *builder) download() ([]*deb, error) {
	status, dir := b.path("status"), b.path("debs")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return nil, err
	}
	options := []string{"-q", "-y", "-o", "Dir::State::status=" + status, "-o", "Dir::Cache::archives=" + dir,
		"-o", "APT::Install-Recommends=false", "-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=root"}
	install := append([]string{"--download-only", "install"}, b.opt.Debian...)
	if err := b.run("apt-get", slices.Concat(options, install)...); err != nil {
		lists := b.path("lists")
		if e := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); e != nil {
			return nil, e
		}
		options = append(options, "-o", "Dir::State::lists="+lists, "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")
		if e := b.run("apt-get", append(slices.Clone(options), "update")...); e != nil {
			return nil, errors.Join(err, e)
		}
		if err := b.run("apt-get", slices.Concat(options, install)...); err != nil {
			return nil, err
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	var debs []*deb
	for _, f := range files {
		d, err := b.openDeb(f)
		if err != nil {
			return nil, err
		}
		debs = append(debs, d)
	}
	return debs, nil
}

// openDeb reads the control data of a package.
func (b *builder) openDeb(file string) (*deb, error) {
	d := &deb{path: file, control: map[string]string{}}
	err := b.eachIn("--ctrl-tarfile", file, func(h *tar.Header, r io.Reader) error {
		name := path.Base(h.Name)
		if name != "control" && name != "conffiles" {
			return nil
		}
		text, err := io.ReadAll(r)
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\n")
			key, value, ok := strings.Cut(line, ":")
			switch {
			case name == "conffiles":
				d.config = append(d.config, strings.TrimSpace(line))
			case ok && !strings.HasPrefix(line, " "):
				d.control[key] = strings.TrimSpace(value)
			}
		}
		return err
	})
	if err == nil && d.name() == "" {
		err = fmt.Errorf("%s has no package name", file)
	}
	return d, err
}

// eachIn calls visit for each entry of one of the two archives of a package.
func (b *builder) eachIn(which, file string, visit func(*tar.Header, io.Reader) error) error {
	cmd := exec.CommandContext(b.ctx, "dpkg-deb", which, file)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	archive := tar.NewReader(out)
	for err == nil {
		var h *tar.Header
		if h, err = archive.Next(); err == nil {
			err = visit(h, archive)
		}
	}
	if err == io.EOF {
		// Read the padding; otherwise dpkg-deb ends with SIGPIPE.
		_, err = io.Copy(io.Discard, out)
	} else {
		cmd.Process.Kill()
	}
	if e := cmd.Wait(); e != nil {
		err = errors.Join(err, fmt.Errorf("%w: %s", e, said.String()))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return nil
}

// unpack unpacks the files of a package below b.root. It returns them with their owners and modes,
// which the unpacked files do not have: rpmbuild gets them as text, so that root is not required.
func (b *builder) unpack(d *deb) ([]File, error) {
	var files []File
	err := b.eachIn("--fsys-tarfile", d.path, func(h *tar.Header, r io.Reader) error {
		name := merged(path.Clean("/" + h.Name))
		if name == "/" || isLeftOut(name) {
			return nil
		}
		f := File{Path: name, User: h.Uname, Group: h.Gname, Mode: h.FileInfo().Mode(), Config: slices.Contains(d.config, path.Clean("/"+h.Name))}
		if err := b.place(h, name, r); err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

func (b *builder) place(h *tar.Header, name string, r io.Reader) error {
	at := filepath.Join(b.root, name)
	if h.Typeflag == tar.TypeDir {
		return os.MkdirAll(at, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return writeNew(at, h, r)
	case tar.TypeLink:
		return os.Link(filepath.Join(b.root, merged(path.Clean("/"+h.Linkname))), at)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, at)
	}
	return fmt.Errorf("%s has a type that is not expected in a package: %c", h.Name, h.Typeflag)
}

// writeNew writes a file that must not exist: one file in two packages would be an error of this
// package.
func writeNew(at string, h *tar.Header, r io.Reader) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644|fs.FileMode(h.Mode)&0o111)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Chtimes(at, h.ModTime, h.ModTime)
}

// merged returns the path of a file where /bin, /sbin and /lib* are links into /usr.
func merged(name string) string {
	first, _, _ := strings.Cut(name[1:], "/")
	if slices.Contains(mergedDirs, first) {
		return "/usr" + name
	}
	return name
}

var mergedDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// isLeftOut reports whether a path is documentation, or is used only by dpkg and related tools.
func isLeftOut(name string) bool {
	for _, dir := range []string{"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/lintian", "/usr/share/bug",
		"/usr/share/locale", "/usr/share/doc-base", "/usr/share/initramfs-tools", "/etc/init.d", "/etc/runit", "/etc/sv", "/etc/ufw",
		"/usr/share/apport", "/usr/share/runit", "/var/log/runit"} {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}
