package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"netroot/internal/api"
	"netroot/internal/foreign"
	"netroot/internal/handoff"
	"netroot/internal/sandbox"
	"netroot/internal/store"
)

// TestMain makes this test binary the netroot that scripts run.
func TestMain(m *testing.M) {
	sandbox.Main()
	foreign.Main()
	testscript.Main(m, map[string]func(){"netroot": main})
}

// TestScript runs the scripts that say what the command line does.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, Condition: condition,
		Setup: func(e *testscript.Env) error {
			e.Setenv(api.RunDirVariable, e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"noise": noise, "image": image, "certificate": certificate,
		},
	})
}

// condition is what scripts ask in brackets, beside testscript's own questions: whether this is
// root, and whether foreign programs are there, [programs:A,B], which under CI they must be.
func condition(name string) (bool, error) {
	if name == "root" {
		return os.Geteuid() == 0, nil
	}
	programs, ok := strings.CutPrefix(name, "programs:")
	if !ok {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	for p := range strings.SplitSeq(programs, ",") {
		_, err := exec.LookPath(p)
		if err != nil && os.Getenv("CI") == "true" {
			return false, fmt.Errorf("%w: .ci/setup installs it", err)
		}
		if err != nil {
			return false, nil
		}
	}
	return true, nil
}

// noise FILE BYTES writes noise, the same each time.
func noise(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{3}).Read(b)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// image STATE LABEL FILE puts an image into the store, which has the file as its packed root.
func image(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(makeImage(ts.MkAbs(args[0]), args[1], []byte(ts.ReadFile(args[2]))))
}

// makeImage commits an image with that root; its kernel and initramfs are none that a machine could
// boot.
func makeImage(state, label string, root []byte) error {
	s, err := store.Create(filepath.Join(state, "images"))
	if err != nil {
		return err
	}
	var parts []store.Part
	for _, part := range []struct {
		role    store.Role
		content []byte
	}{{store.RoleRoot, root}, {store.RoleKernel, []byte("kernel")}, {store.RoleInitramfs, []byte("initramfs")}} {
		file := filepath.Join(state, "part-"+string(part.role)) // the store takes it away
		if err := os.WriteFile(file, part.content, 0o600); err != nil {
			return err
		}
		parts = append(parts, store.Part{Role: part.role, Path: file})
	}
	cfg := store.Config{Architecture: "amd64", RootFormat: "squashfs", KernelRelease: "6.1", Transports: handoff.Transports()}
	_, err = s.Commit(context.Background(), label, cfg, parts)
	return err
}

// certificate CERT KEY makes one for 127.0.0.1 that is its own authority.
func certificate(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	ts.Check(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{{127, 0, 0, 1}}, IsCA: true, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(cryptorand.Reader, c, c, &key.PublicKey, key)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for i, block := range []pem.Block{{Type: "CERTIFICATE", Bytes: cert}, {Type: "PRIVATE KEY", Bytes: secret}} {
		ts.Check(os.WriteFile(ts.MkAbs(args[i]), pem.EncodeToMemory(&block), 0o600))
	}
}
