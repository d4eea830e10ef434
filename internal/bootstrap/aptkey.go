package bootstrap

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// treeKey is the path in the Tree of the header's GPG keyring. apt looks for keys there, because
// %post installs from the same archive.
const treeKey = "etc/apt/trusted.gpg.d/bootstrap.gpg"

// aptKey returns the keyring that the header's GPG names, in the form that apt and gpgv read, or
// nil if the header has no GPG. GPG is a file or an https:// URL. The environment variable GPG is
// not read: it is for yum, and a user who set it for such a recipe did not mean a Debian archive.
func (j Job) aptKey(ctx context.Context) ([]byte, error) {
	from := j.header("GPG")
	if from == "" {
		return nil, nil
	}
	text, err := j.readKey(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("GPG: %w", err)
	}
	key, err := dearmor(text)
	if err != nil {
		return nil, fmt.Errorf("GPG: %s: %w", from, err)
	}
	return key, nil
}

func (j Job) readKey(ctx context.Context, from string) ([]byte, error) {
	const tooMuch = 1 << 20
	path, isFile := strings.CutPrefix(from, "file://")
	switch {
	case strings.HasPrefix(from, "https://"):
		body, err := j.fetch(ctx, from)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		return io.ReadAll(io.LimitReader(body, tooMuch))
	case !isFile && strings.Contains(from, "://"):
		return nil, fmt.Errorf("%s is not a safe source for a key: use an https:// URL or a file", from)
	}
	return os.ReadFile(j.absolute(path))
}

// dearmor returns the packets of public keys, and decodes their armor if they have one (RFC 9580,
// 6.2), because gpgv reads only packets. It ignores the optional checksum: a damaged key is found
// when the signature is checked.
func dearmor(text []byte) ([]byte, error) {
	const begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
	key := text
	if bytes.Contains(text, []byte(begin)) {
		key = nil
		blocks := strings.Split(string(text), begin)
		for _, b := range blocks[1:] {
			b, _, ok := strings.Cut(b, end)
			if !ok {
				return nil, errors.New("the armor of the key has no END line")
			}
			packets, err := fromBase64(b)
			if err != nil {
				return nil, err
			}
			key = append(key, packets...)
		}
	}
	const publicKey = 6 // type of the first packet: RFC 9580, 4.2 and 5
	if len(key) == 0 || key[0]&0xc0 == 0x80 && key[0]>>2&0xf != publicKey || key[0]&0xc0 == 0xc0 && key[0]&0x3f != publicKey || key[0]&0x80 == 0 {
		return nil, errors.New("not an OpenPGP public key")
	}
	return key, nil
}

func fromBase64(armored string) ([]byte, error) {
	var b strings.Builder
	for line := range strings.Lines(armored) {
		line = strings.TrimSpace(line)
		// Skip headers and the checksum.
		if strings.Contains(line, ":") || strings.HasPrefix(line, "=") {
			continue
		}
		b.WriteString(line)
	}
	return base64.StdEncoding.DecodeString(b.String())
}

// writeKeyring writes a keyring for the host's tools into a new directory, which apt's user can
// read.
func writeKeyring(key []byte) (dir, file string, err error) {
	dir, err = os.MkdirTemp("", "netroot-key-")
	if err != nil {
		return "", "", err
	}
	file = filepath.Join(dir, "bootstrap.gpg")
	err = errors.Join(os.WriteFile(file, key, 0o644), os.Chmod(file, 0o644), os.Chmod(dir, 0o755))
	if err != nil {
		return "", "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, file, nil
}
