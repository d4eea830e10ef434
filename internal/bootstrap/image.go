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

// goarch is the architecture that trees are made for: the one whose programs %post can run here.
const goarch = runtime.GOARCH

// install unpacks an image's layers over the Tree, the lowest first, and puts the image's variables where Apptainer
// does, so that %post sees them. What the image runs and its labels go to the places of %runscript and %labels.
func (j Job) install(ctx context.Context, img v1.Image) error {
	config, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("read the image's configuration: %w", err)
	}
	if config.OS != "" && config.OS != "linux" || config.Architecture != "" && config.Architecture != goarch {
		return fmt.Errorf("the image is for %s/%s, and trees made here are for linux/%s", config.OS, config.Architecture, goarch)
	}
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("read the image's layers: %w", err)
	}
	if len(layers) == 0 || len(layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("the image has %d layers, and its configuration names %d", len(layers), len(config.RootFS.DiffIDs))
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
	size, err := l.Size() // as it is stored: compressed, mostly
	if err != nil {
		return err
	}
	j.logf("%s: %s", which, megabytes(size))
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	return unpack(root, &progress{ctx: ctx, r: r, told: func(n int64) { j.logf("%s: %s unpacked", which, megabytes(n)) }}, want)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// progress ends reading when ctx does, and tells how far it is now and then.
type progress struct {
	ctx     context.Context
	r       io.Reader
	n, next int64
	told    func(n int64)
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
		p.told(p.n)
	}
	return n, err
}

// envFile has the name that Apptainer gives it, and that recipes know.
const envFile = ".singularity.d/env/10-docker2singularity.sh"

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// writeEnvironment keeps the image's variables. PATH is set; the others only where the caller has none of his own.
func (j Job) writeEnvironment(root *os.Root, env []string) error {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		if !shellName.MatchString(k) {
			j.logf("the image's variable %q cannot be one of a shell: left out", k)
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

// runscript starts what the image would: Docker's rule is that arguments take the place of CMD and leave ENTRYPOINT.
// An image that has neither runs its arguments.
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

// writeLabels keeps the image's labels. Those that an image without any has in a layer stay.
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

// quoted makes words of a shell's command line.
func quoted(words ...string) string {
	var all []string
	for _, w := range words {
		all = append(all, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	return strings.Join(all, " ")
}

// writeMeta writes a file about the Tree, in the place of what a layer may have there.
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
