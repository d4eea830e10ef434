package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// goarch is the architecture that trees are made for, which is the host's, because %post runs here.
const goarch = runtime.GOARCH

// install unpacks an image's layers into the Tree, from the lowest to the highest. It writes the
// image's variables where Apptainer does, so that %post sees them. The image's command and labels
// go to the places of %runscript and %labels.
func (j Job) install(ctx context.Context, img v1.Image) error {
	config, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("read the configuration of the image: %w", err)
	}
	if config.OS != "" && config.OS != "linux" || config.Architecture != "" && config.Architecture != goarch {
		return fmt.Errorf("the image is for %s/%s, but this host makes trees for linux/%s: choose an image for that platform", config.OS, config.Architecture, goarch)
	}
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("read the layers of the image: %w", err)
	}
	if len(layers) == 0 || len(layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("the image has %d layers, but its configuration names %d", len(layers), len(config.RootFS.DiffIDs))
	}
	root, err := os.OpenRoot(j.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	for i, l := range layers {
		which := fmt.Sprintf("layer %d of %d", i+1, len(layers))
		if err := j.installLayer(ctx, root, l, config.RootFS.DiffIDs[i], which); err != nil {
			return fmt.Errorf("%s: %w", which, err)
		}
	}
	if err := j.writeEnvironment(root, config.Config.Env); err != nil {
		return err
	}
	if err := writeMeta(root, runFile, runscript(config.Config.Entrypoint, config.Config.Cmd), 0o755); err != nil {
		return err
	}
	return writeLabels(root, config.Config.Labels)
}

func (j Job) installLayer(ctx context.Context, root *os.Root, l v1.Layer, want v1.Hash, which string) error {
	size, err := l.Size() // stored size, usually compressed
	if err != nil {
		return err
	}
	j.logf("%s: %s", which, megabytes(size))
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	return unpack(root, &progress{ctx: ctx, r: r, report: func(n int64) { j.logf("%s: %s unpacked", which, megabytes(n)) }}, want)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// progress reads until ctx ends, and reports from time to time how many bytes were read.
type progress struct {
	ctx     context.Context
	r       io.Reader
	n, next int64
	report  func(n int64)
}

const progressStep = 100e6

func (p *progress) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	p.n += int64(n)
	if p.n >= p.next+progressStep {
		p.next = p.n
		p.report(p.n)
	}
	return n, err
}

// envFile has the name that Apptainer uses and that recipes refer to.
const envFile = ".singularity.d/env/10-docker2singularity.sh"

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// writeEnvironment writes a script with the image's variables. It sets PATH; it sets each other
// variable only if the caller has not set it.
func (j Job) writeEnvironment(root *os.Root, env []string) error {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		if !shellName.MatchString(k) {
			j.logf("the image's variable %q is not a valid name for a shell: skipped", k)
			continue
		}
		if k != "PATH" {
			fmt.Fprintf(&b, `[ -n "${%s:-}" ] || `, k)
		}
		fmt.Fprintf(&b, "export %s=%s\n", k, quoted(v))
	}
	return writeMeta(root, envFile, b.String(), 0o755)
}

const (
	runFile    = ".singularity.d/runscript"
	labelsFile = ".singularity.d/labels.json"
)

// runscript returns a script that starts the image's command by Docker's rule: arguments replace
// CMD but not ENTRYPOINT. Without both, the script runs its arguments.
func runscript(entrypoint, cmd []string) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# The ENTRYPOINT of the image, with CMD where no arguments are given.\n\n")
	if len(cmd) > 0 {
		b.WriteString("[ $# -gt 0 ] || set -- " + quoted(cmd...) + "\n")
	}
	b.WriteString("exec " + quoted(entrypoint...))
	if len(entrypoint) > 0 {
		b.WriteByte(' ')
	}
	b.WriteString("\"$@\"\n")
	return b.String()
}

// writeLabels writes the image's labels. If the image has none, labels in a layer stay.
func writeLabels(root *os.Root, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	text, err := json.MarshalIndent(labels, "", "\t")
	if err != nil {
		return err
	}
	return writeMeta(root, labelsFile, string(text), 0o644)
}

// quoted quotes words for the command line of a shell.
func quoted(words ...string) string {
	var all []string
	for _, w := range words {
		all = append(all, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	return strings.Join(all, " ")
}

// writeMeta writes a file about the Tree, and replaces the file that a layer may have there.
func writeMeta(root *os.Root, name, text string, mode os.FileMode) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	if err := root.WriteFile(name, []byte(text), mode); err != nil {
		return err
	}
	return root.Chmod(name, mode)
}
