package stack

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/site"
)

// folder is a directory of layers whose archives have no digest but their name.
type folder string

func (f folder) Has(name string) bool { _, err := os.Lstat(f.Place(name)); return err == nil }

func (f folder) Digest(name string, _ []string) (handoff.Digest, error) {
	return handoff.Digest("sha256:" + name), nil
}

func (f folder) Place(name string) string { return filepath.Join(string(f), name) }

func (f folder) Dir(name string) (layer.Dir, error) {
	if fi, err := os.Stat(f.Place(name)); err != nil || !fi.IsDir() {
		return layer.Dir{}, errors.New("it is not a directory")
	}
	return layer.Dir{Name: name, Path: f.Place(name)}, nil
}

func (f folder) Names() ([]string, error) { return []string{"site", "spare"}, nil }

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// label is one with a tree, and the folder of layers beside it.
func label(t *testing.T, layers ...string) (*site.Site, *site.Label, folder) {
	t.Helper()
	dir := t.TempDir()
	s := site.Empty()
	l := s.NewLabel("debian")
	l.Tree, l.Layers = filepath.Join(dir, "tree"), layers
	s.Labels["debian"] = l
	write(t, filepath.Join(l.Tree, "etc/motd"), "tree\n")
	write(t, filepath.Join(l.Tree, "etc/issue"), "tree\n")
	write(t, filepath.Join(l.Tree, "etc/rootovl/rack7/etc/motd"), "rack7\n")
	write(t, filepath.Join(l.Tree, "etc/rootovl/rack7/.rootovldel"), "/etc/issue\n")
	write(t, filepath.Join(dir, "layers/site/etc/site"), "site\n")
	write(t, filepath.Join(dir, "layers/spare/etc/spare"), "spare\n")
	write(t, filepath.Join(dir, "layers/file"), "")
	return s, l, folder(filepath.Join(dir, "layers"))
}

func open(t *testing.T, s *site.Site, l *site.Label, f folder, given *[]string) *View {
	t.Helper()
	v, err := Open(s, l, given, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestList(t *testing.T) {
	s, l, f := label(t, "rack7", "site", "sitte", "file")
	list, err := open(t, s, l, f, nil).List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range list {
		got = append(got, strings.Join([]string{string(rune('0' + l.Order)), l.Name, l.Where, l.Problem}, " "))
	}
	want := []string{
		"1 site server ", "2 file server it is not a directory", "3 rack7 tree ",
		"4 sitte missing the root has no /etc/rootovl/sitte and " + f.Place("sitte") + ` does not exist; did you mean "site"?`,
		"0 spare server ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if list[0].Files != 1 || list[0].Size != 5 || list[2].Deletes != 1 {
		t.Errorf("%+v", list)
	}
}

func TestFilesAndDiff(t *testing.T) {
	s, l, f := label(t, "rack7")
	v := open(t, s, l, f, &[]string{"site", "rack7", "nowhere"})
	files, reports, err := v.Files()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		if f.Type != "directory" {
			got = append(got, f.Layer+" "+f.Path)
		}
	}
	if diff := cmp.Diff([]string{"rack7 /etc/issue", "rack7 /etc/motd", "site /etc/site"}, got); diff != "" {
		t.Error(diff)
	}
	if len(reports) != 1 || reports[0].Layer != "nowhere" || !strings.Contains(reports[0].Text, f.Place("nowhere")) {
		t.Errorf("%+v", reports)
	}
	changes, _, err := v.Diff()
	if err != nil || len(changes) != 3 {
		t.Errorf("%+v, %v", changes, err)
	}
}

func TestMissing(t *testing.T) {
	s, l, f := label(t)
	names := site.Stack{Names: []string{"rack7", "rack8"}, Tree: []string{"rack7", "rack8"}}
	if err := Missing(l, names, f); err == nil || !strings.Contains(err.Error(), "label debian: layer rack8: ") || strings.Contains(err.Error(), "layer rack7") {
		t.Error(err)
	}
	if err := Missing(nil, names, f); err != nil {
		t.Error(err)
	}
	l.Tree += "/none"
	if err := Missing(l, names, f); err != nil {
		t.Error(err)
	}
	if _, err := Open(s, l, nil, f); err == nil || !strings.Contains(err.Error(), `run "netroot build debian" first`) {
		t.Error(err)
	}
	if _, err := Open(s, l, &[]string{"a", "a"}, f); err == nil {
		t.Error("a layer that is named twice is taken")
	}
}

// TestCmdlineLayers: layers that a label's kernel arguments name count as the node counts them.
func TestCmdlineLayers(t *testing.T) {
	for want, args := range map[string][]string{
		"":      {"quiet", "rootovlcfg="},
		"a b c": {"rootovlcfg=a,b", "x=rootovlcfg=y", "rootovlcfg=c,,a,../d"},
	} {
		if got := strings.Join(inCmdline(args), " "); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}
