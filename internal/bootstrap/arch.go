package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"netroot/internal/layer"
)

// arch installs Arch Linux with pacstrap: the packages of Include, or base. ConfURL is the URL or
// path of a pacman.conf; the default is the host's. MirrorURL, with pacman's $repo and $arch in it,
// replaces the mirror list that the configuration names, for hosts that have no such list.
//
// At the end, arch makes the package keys of the Tree. (Apptainer installs haveged for that;
// kernels since 5.6 have enough randomness without it.)
func arch(ctx context.Context, j Job) error {
	packages, err := j.include()
	if err != nil {
		return err
	}
	prog, err := find(archTools...)
	if err != nil {
		return err
	}
	if _, err := find(tool{"pacman", "pacman-package-manager", "pacman"}); err != nil {
		return err
	}
	conf, err := j.pacmanConf(ctx)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "netroot-*-pacman.conf")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(conf)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := j.run(ctx, pacstrapArgs(prog, file.Name(), j.Root, packages)); err != nil {
		return err
	}
	return j.pacmanKeys(ctx)
}

// pacstrapArgs returns the command line. pacstrap uses the host's package cache, but not the host's
// keys or mirror list.
func pacstrapArgs(prog, conf, root string, packages []string) []string {
	if len(packages) == 0 {
		packages = []string{"base"}
	}
	return append([]string{prog, "-C", conf, "-c", "-G", "-M", root}, packages...)
}

const hostPacmanConf = "/etc/pacman.conf"

// pacmanConf returns the text of the configuration: pacman.conf(5).
func (j Job) pacmanConf(ctx context.Context) (string, error) {
	from := j.header("ConfURL")
	text, err := j.readConf(ctx, from)
	if from == "" && errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("ConfURL: is missing, and this host has no " + hostPacmanConf + ": set it to the URL or path of a pacman.conf")
	}
	if err != nil {
		return "", fmt.Errorf("ConfURL: %w", err)
	}
	text, err = withMirror(text, j.header("MirrorURL"))
	if err != nil {
		return "", err
	}
	if !hasRepository(text) {
		return "", errors.New("ConfURL: the pacman.conf has no section for a repository, such as [core]: use another file")
	}
	return text, nil
}

func (j Job) readConf(ctx context.Context, from string) (string, error) {
	const tooMuch = 1 << 20
	switch {
	case from == "":
		from = hostPacmanConf
	case strings.HasPrefix(from, "http://"), strings.HasPrefix(from, "https://"):
		body, err := j.fetch(ctx, from)
		if err != nil {
			return "", err
		}
		defer body.Close()
		text, err := io.ReadAll(io.LimitReader(body, tooMuch))
		return string(text), err
	}
	text, err := os.ReadFile(j.absolute(strings.TrimPrefix(from, "file://")))
	return string(text), err
}

// withMirror replaces the lists that the configuration includes with the mirror. A list that the
// host does not have is an error.
func withMirror(conf, mirror string) (string, error) {
	var b strings.Builder
	for line := range strings.Lines(conf) {
		key, list, _ := strings.Cut(strings.TrimSpace(line), "=")
		list = strings.TrimSpace(list)
		if strings.TrimSpace(key) != "Include" || !strings.Contains(filepath.Base(list), "mirrorlist") {
			b.WriteString(line)
			continue
		}
		if mirror != "" {
			b.WriteString("Server = " + mirror + "\n")
			continue
		}
		if _, err := os.Stat(list); err != nil {
			return "", fmt.Errorf("MirrorURL: is missing, and this host has no mirror list (%w): "+
				"set it to a URL with $repo and $arch, as in pacman's Server", err)
		}
		b.WriteString(line)
	}
	return b.String(), nil
}

func hasRepository(conf string) bool {
	for line := range strings.Lines(conf) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "[") && line != "[options]" {
			return true
		}
	}
	return false
}

// pacmanKeys makes the keys that the Tree's own pacman requires, if the Tree has pacman.
func (j Job) pacmanKeys(ctx context.Context) error {
	root, err := os.OpenRoot(j.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := layer.Resolve(root, "/usr/bin/pacman-key"); errors.Is(err, fs.ErrNotExist) {
		j.logf("the tree has no pacman-key, so it cannot install packages itself")
		return nil
	}
	if err := baseDirs(j.Root); err != nil {
		return err
	}
	if err := j.runInside(ctx, "pacman-key", "--init"); err != nil {
		return err
	}
	return j.runInside(ctx, "pacman-key", "--populate", "archlinux")
}
