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

// treeKey is the header's GPG in the Tree, where apt looks for keys: %post installs from the same archive.
const treeKey = "etc/apt/trusted.gpg.d/bootstrap.gpg"

// aptKey returns the keyring of the header's GPG, as apt and gpgv read it, or nil where there is none. GPG is a file, or
// an https:// URL. The variable GPG is for yum: who has it set for one recipe means no archive of Debian's.
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
		return nil, fmt.Errorf("%s is no safe place for a key: give an https:// URL, or a file", from)
	}
	return os.ReadFile(j.absolute(path))
}

// dearmor returns the packets of public keys, out of their armor if they have one (RFC 9580, 6.2): gpgv takes no other
// form. The checksum below them is optional, and protects against nothing that a signature's check does not find.
func dearmor(text []byte) ([]byte, error) {
	const begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
	key := text
	if bytes.Contains(text, []byte(begin)) {
		key = nil
		blocks := strings.Split(string(text), begin)
		for _, b := range blocks[1:] {
			b, _, ok := strings.Cut(b, end)
			if !ok {
				return nil, errors.New("its key has no end")
			}
			packets, err := fromBase64(b)
			if err != nil {
				return nil, err
			}
			key = append(key, packets...)
		}
	}
	const publicKey = 6 // the first packet's type: RFC 9580, 4.2 and 5
	if len(key) == 0 || key[0]&0xc0 == 0x80 && key[0]>>2&0xf != publicKey || key[0]&0xc0 == 0xc0 && key[0]&0x3f != publicKey || key[0]&0x80 == 0 {
		return nil, errors.New("is no OpenPGP public key")
	}
	return key, nil
}

func fromBase64(armored string) ([]byte, error) {
	var b strings.Builder
	for line := range strings.Lines(armored) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, ":") || strings.HasPrefix(line, "=") { // a header, the checksum
			continue
		}
		b.WriteString(line)
	}
	return base64.StdEncoding.DecodeString(b.String())
}

// writeKeyring writes a keyring for the tools of the host into a directory of its own, which apt's user can read.
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
