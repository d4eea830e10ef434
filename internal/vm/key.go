package vm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/ssh"

	"netroot/internal/layer"
)

// Key is an ssh key that may log in to a machine as root.
type Key struct {
	// Authorized is the public half, as a line of authorized_keys.
	Authorized []byte

	signer  ssh.Signer         // nil if only the public half is known
	private ed25519.PrivateKey // set for a key that NewKey made
}

// NewKey makes a key for one run.
func NewKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("ssh key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("ssh key: %w", err)
	}
	key := keyOf(signer)
	key.private = private
	return key, nil
}

// ReadKey reads a private key without a passphrase, or a public key. With a public key, only the
// owner of its private half can log in.
func ReadKey(file string) (Key, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Key{}, fmt.Errorf("ssh key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err == nil {
		return keyOf(signer), nil
	}
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return Key{}, fmt.Errorf("ssh key %s has a passphrase: use the public key %s.pub, or no key", file, file)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return Key{}, fmt.Errorf("ssh key %s is neither a private nor a public key", file)
	}
	return Key{Authorized: ssh.MarshalAuthorizedKey(public)}, nil
}

func keyOf(signer ssh.Signer) Key {
	return Key{Authorized: ssh.MarshalAuthorizedKey(signer.PublicKey()), signer: signer}
}

// CanLogIn reports whether the private half is known.
func (k Key) CanLogIn() bool { return k.signer != nil }

// Layer returns the archive that makes the key the only one in the machine's
// root/.ssh/authorized_keys.
func (k Key) Layer() ([]byte, error) {
	var b layer.Builder
	b.AddDir("root/.ssh", 0o700, 0, 0)
	b.AddFile("root/.ssh/authorized_keys", 0o600, 0, 0, k.Authorized)
	return b.Archive()
}

// RunLayer returns the archive that adds the key to a machine whose root must stay unchanged: it
// has files only below run/. They make systemd start sshd with a command that knows one more key of
// root (sshd_config(5), AuthorizedKeysCommand). The variables are those that ssh.service of Debian
// and sshd.service of Enterprise Linux put after the program.
func (k Key) RunLayer() ([]byte, error) {
	const options = "-oAuthorizedKeysCommand=/run/netroot/authorized-keys -oAuthorizedKeysCommandUser=root"
	const dropIn = "[Service]\nEnvironmentFile=/run/netroot/sshd.env\n"
	var b layer.Builder
	b.AddDir("run/netroot", 0o755, 0, 0)
	b.AddFile("run/netroot/authorized-keys", 0o755, 0, 0,
		fmt.Appendf(nil, "#!/bin/sh\n[ \"$1\" = root ] && cat <<'END'\n%s\nEND\n", bytes.TrimSpace(k.Authorized)))
	b.AddFile("run/netroot/sshd.env", 0o644, 0, 0, []byte("SSHD_OPTS="+options+"\nOPTIONS="+options+"\n"))
	for _, unit := range []string{"ssh.service", "sshd.service"} {
		b.AddFile("run/systemd/system/"+unit+".d/netroot.conf", 0o644, 0, 0, []byte(dropIn))
	}
	return b.Archive()
}

// WritePrivate writes the private half of a key made by NewKey to a new file that only its owner
// can read, for the ssh program.
func (k Key) WritePrivate(file string) error {
	if k.private == nil {
		return errors.New("ssh key: only the private half of a key made for this run can be written")
	}
	block, err := ssh.MarshalPrivateKey(k.private, "netroot vm")
	if err != nil {
		return fmt.Errorf("ssh key: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("ssh key: %w", err)
	}
	return errors.Join(pem.Encode(f, block), f.Close())
}
