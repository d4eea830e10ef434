package build

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"netroot/internal/layer"
	"netroot/internal/sandbox"
)

// packaged reports which files of a tree are as a package brought them. It reads the lists of dpkg,
// pacman and pip, and queries an RPM database with the tree's own rpm. In a tree without any of
// these, no file is.
func packaged(ctx context.Context, tree string, files []string) (map[string]bool, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	wanted := map[string]bool{}
	for _, f := range files {
		wanted[strings.TrimPrefix(f, "/")] = true
	}
	listed := digests{}
	if err := pipDigests(root, wanted, listed); err != nil {
		return nil, err
	}
	if _, err := layer.Resolve(root, "/var/lib/dpkg/info"); err == nil {
		if err := dpkgDigests(root, wanted, listed); err != nil {
			return nil, err
		}
	} else if local, err := layer.Resolve(root, pacmanLocal); err == nil {
		if err := pacmanDigests(root, local, wanted, listed); err != nil {
			return nil, err
		}
	} else if _, err := layer.Resolve(root, "/usr/bin/rpm"); err == nil {
		if err := rpmDigests(ctx, tree, files, wanted, listed); err != nil {
			return nil, err
		}
	}
	return listed.check(root)
}

// digests are what packages say of their files: hexadecimal digests by the path below the tree.
type digests map[string][]string

// add notes a digest of a file that is wanted.
func (d digests) add(wanted map[string]bool, name, digest string) {
	if wanted[name] && digest != "" {
		d[name] = append(d[name], digest)
	}
}

// check compares the files with their digests.
func (d digests) check(root *os.Root) (map[string]bool, error) {
	same := map[string]bool{}
	for name, all := range d {
		text, err := root.ReadFile(name)
		if err != nil {
			return nil, err
		}
		same["/"+name] = slices.ContainsFunc(all, func(digest string) bool { return hasDigest(text, digest) })
	}
	return same, nil
}

// hasDigest computes the digest whose length it is.
func hasDigest(text []byte, digest string) bool {
	for _, h := range []hash.Hash{md5.New(), sha1.New(), sha256.New(), sha512.New384(), sha512.New()} {
		if hex.EncodedLen(h.Size()) == len(digest) {
			h.Write(text)
			return hex.EncodeToString(h.Sum(nil)) == strings.ToLower(digest)
		}
	}
	return false
}

// dpkgDigests reads the lines "DIGEST  PATH" of dpkg's lists (deb-md5sums(5)).
func dpkgDigests(root *os.Root, wanted map[string]bool, found digests) error {
	lists, err := fs.Glob(root.FS(), "var/lib/dpkg/info/*.md5sums")
	if err != nil {
		return err
	}
	for _, list := range lists {
		text, err := root.ReadFile(list)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(text) {
			if digest, name, ok := strings.Cut(strings.TrimRight(string(line), "\n"), "  "); ok {
				found.add(wanted, name, digest)
			}
		}
	}
	return nil
}

// pipDigests reads the lists of the libraries of Python that lie beside the wanted files: lines
// "PATH,sha256=DIGEST,SIZE", where the digest is in base64 (PEP 376, PEP 427).
func pipDigests(root *os.Root, wanted map[string]bool, found digests) error {
	dirs := map[string]bool{}
	for name := range wanted {
		for _, mark := range []string{"/site-packages/", "/dist-packages/"} {
			if dir, _, ok := strings.Cut(name, mark); ok {
				dirs[dir+strings.TrimSuffix(mark, "/")] = true
			}
		}
	}
	for dir := range dirs {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			text, err := root.ReadFile(path.Join(dir, e.Name(), "RECORD"))
			if err != nil {
				continue // not the description of a library
			}
			for line := range strings.Lines(string(text)) {
				name, rest, _ := strings.Cut(line, ",sha256=")
				digest, _, _ := strings.Cut(rest, ",")
				if sum, err := base64.RawURLEncoding.DecodeString(digest); err == nil && len(sum) == sha256.Size {
					found.add(wanted, path.Join(dir, name), hex.EncodeToString(sum))
				}
			}
		}
	}
	return nil
}

// pacmanDigests reads the packages' mtree(5) files: lines "./PATH ... sha256digest=DIGEST".
func pacmanDigests(root *os.Root, local string, wanted map[string]bool, found digests) error {
	entries, err := fs.ReadDir(root.FS(), local)
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, err := root.ReadFile(path.Join(local, e.Name(), "mtree"))
		if errors.Is(err, fs.ErrNotExist) || !e.IsDir() {
			continue
		}
		if err != nil {
			return err
		}
		if err := mtreeDigests(bytes.NewReader(text), found, wanted); err != nil {
			return fmt.Errorf("%s/mtree: %w", e.Name(), err)
		}
	}
	return nil
}

func mtreeDigests(r io.Reader, found digests, wanted map[string]bool) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		for _, f := range fields[1:] {
			if digest, ok := strings.CutPrefix(f, "sha256digest="); ok {
				found.add(wanted, strings.TrimPrefix(fields[0], "./"), digest)
			}
		}
	}
	return lines.Err()
}

// rpmDigests queries the packages of the files for the digests of all of their files.
func rpmDigests(ctx context.Context, tree string, files []string, wanted map[string]bool, found digests) error {
	var out, said bytes.Buffer
	s := sandbox.Sandbox{Root: tree, Stdout: &out, Stderr: &said}
	args := append([]string{"rpm", "-q", "--qf", rpmFormat, "-f"}, files...)
	// rpm ends with the number of files that no package has.
	if err := s.Run(ctx, args); err != nil && out.Len() == 0 {
		return fmt.Errorf("find the packages of files with rpm: %w: %s", err, strings.TrimSpace(said.String()))
	}
	rpmLines(&out, func(name, digest string) { found.add(wanted, name, digest) })
	return nil
}

const rpmFormat = `[%{FILEDIGESTS} %{FILENAMES}\n]`

// rpmLines reads the output of rpmFormat.
func rpmLines(r io.Reader, file func(name, digest string)) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if digest, name, ok := strings.Cut(lines.Text(), " /"); ok {
			file(name, digest)
		}
	}
}
