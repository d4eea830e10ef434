package build

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"netroot/internal/recipe"
)

// metadata is the metadata that a stage writes into its tree after %post.
type metadata struct {
	recipe   *recipe.Recipe
	stage    *recipe.Stage
	sections Sections
	force    bool // the recipe's labels and help replace existing ones
	update   bool // the agent did not run
	image    bool // the tree's labels come from a container image; %labels override them
	created  time.Time
	version  string // version of netroot
	warn     func(format string, args ...any)
}

func (m *metadata) write(root *os.Root) error {
	for _, step := range []func(*os.Root) error{m.help, m.labels, m.source, m.environment, m.scripts} {
		if err := step(root); err != nil {
			return err
		}
	}
	return nil
}

const helpFile = metaDir + "/runscript.help"

// hasHelp reports whether this build writes a help text.
func (m *metadata) hasHelp() bool { return m.sections.has("help") && m.stage.Help != nil }

func (m *metadata) help(root *os.Root) error {
	if !m.hasHelp() {
		return nil
	}
	text := []byte(m.stage.Help.Body + "\n")
	old, err := root.ReadFile(helpFile)
	if err == nil && !m.force {
		if !bytes.Equal(old, text) {
			m.warn("%%help: the tree already has a help text, which is kept: use --force to replace it")
		}
		return nil
	}
	return writeFile(root, helpFile, text, 0o644)
}

// buildLabels is the file to which sections append lines of the form "KEY value".
const buildLabels = ".build.labels"

const labelsFile = metaDir + "/labels.json"

// labels merges the labels of the tree, of %post and of the build; a later source overrides an
// earlier one. %labels fill in the keys that none of these has, and override the labels of a
// container image.
func (m *metadata) labels(root *os.Root) error {
	labels := map[string]string{}
	old, err := root.ReadFile(labelsFile)
	if err == nil {
		if err := json.Unmarshal(old, &labels); err != nil {
			return fmt.Errorf("read the labels of the tree in /%s: %w", labelsFile, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all := map[string]string{}
	if m.image {
		all, labels = labels, all
	}
	appended, err := root.ReadFile(buildLabels)
	if err == nil {
		maps.Copy(labels, parseLabels(appended))
		err = root.Remove(buildLabels)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	maps.Copy(labels, m.schema())
	if m.sections.has("labels") {
		for _, l := range m.stage.Labels {
			if old, ok := labels[l.Key]; ok && !m.force {
				if old != l.Value {
					m.warn("%%labels: %s is already %q, which is kept: use --force to set the recipe's value", l.Key, old)
				}
				continue
			}
			labels[l.Key] = l.Value
		}
	}
	maps.Copy(all, labels)
	text, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return writeFile(root, labelsFile, text, 0o644)
}

// parseLabels parses lines of the form "KEY value".
func parseLabels(text []byte) map[string]string {
	labels := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.IndexAny(line+" ", " \t")
		labels[line[:at]] = strings.TrimSpace(line[at:])
	}
	return labels
}

// schema returns the labels of label-schema.org that Apptainer also writes.
func (m *metadata) schema() map[string]string {
	const schema = "org.label-schema."
	labels := map[string]string{
		schema + "schema-version":        "1.0",
		schema + "build-arch":            runtime.GOARCH,
		schema + "build-date":            labelDate(m.created),
		schema + "usage.netroot.version": m.version,
	}
	if m.hasHelp() {
		labels[schema+"usage"] = "/" + helpFile
		labels[schema+"usage.singularity.runscript.help"] = "/" + helpFile
	}
	if !m.update {
		for _, f := range m.stage.Header {
			labels[schema+"usage.singularity.deffile."+strings.ToLower(f.Key)] = f.Value
		}
	}
	return labels
}

// labelDate formats a time as Apptainer does: Sunday_22_November_2026_21:8:1_UTC.
func labelDate(t time.Time) string {
	zone, _ := t.Zone()
	return fmt.Sprintf("%s_%d_%s_%d_%d:%d:%d_%s", t.Weekday(), t.Day(), t.Month(), t.Year(), t.Hour(), t.Minute(), t.Second(), zone)
}

const (
	recipeFile = metaDir + "/Singularity"
	historyDir = metaDir + "/bootstrap_history"
)

// source stores the recipe as it was written: the values of build arguments, such as a token for a
// repository, do not belong into an image that everybody may read. An older recipe of the tree (localimage, --update) moves to the
// history: Apptainer0, Apptainer1, ...
func (m *metadata) source(root *os.Root) error {
	old, err := root.ReadFile(recipeFile)
	if err == nil && bytes.Equal(old, m.recipe.Written) {
		return nil
	}
	if err == nil {
		if err := makeDir(root, historyDir); err != nil {
			return err
		}
		earlier, err := fs.ReadDir(root.FS(), historyDir)
		if err != nil {
			return err
		}
		n := len(earlier)
		for slices.ContainsFunc(earlier, func(e fs.DirEntry) bool { return e.Name() == fmt.Sprint("Apptainer", n) }) {
			n++
		}
		if err := root.Rename(recipeFile, path.Join(historyDir, fmt.Sprint("Apptainer", n))); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeFile(root, recipeFile, m.recipe.Written, 0o644)
}

// environment appends %environment to the tree's environment file. It does not append a text that
// is already the last one, which happens when a tree is updated.
func (m *metadata) environment(root *os.Root) error {
	const name = metaDir + "/env/90-environment.sh"
	if !m.sections.has("environment") || m.stage.Environment == nil {
		return nil
	}
	text, err := root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(text) == 0 {
		text = []byte("#!/bin/sh\n")
	}
	more := []byte("\n" + m.stage.Environment.Body + "\n")
	if bytes.HasSuffix(text, more) {
		return nil
	}
	return writeFile(root, name, append(text, more...), 0o755)
}

const testFile = metaDir + "/test"

func (m *metadata) scripts(root *os.Root) error {
	for _, s := range []struct {
		section string
		script  *recipe.Script
	}{
		{"startscript", m.stage.StartScript},
		{"runscript", m.stage.RunScript},
		{"test", m.stage.Test},
	} {
		if s.script == nil || !m.sections.has(s.section) {
			continue
		}
		if err := writeFile(root, metaDir+"/"+s.section, executable(s.script), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// executable turns a section into a program. The section's arguments are added to its "#!" line,
// which is its own first line or that of /bin/sh. The result is nil if the section is missing.
func executable(s *recipe.Script) []byte {
	if s == nil {
		return nil
	}
	shebang, text := "#!/bin/sh", s.Body
	if first, rest, _ := strings.Cut(strings.TrimLeft(text, " \t\r\n"), "\n"); strings.HasPrefix(first, "#!") {
		shebang, text = strings.TrimSpace(first), rest
	}
	shebang = strings.TrimSpace(shebang + " " + strings.Join(s.Args, " "))
	return []byte(shebang + "\n\n" + text + "\n")
}
