package main

import (
	"bytes"
	"flag"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write the manual pages")

const manDir = "../../docs/man"

// TestManPages holds the manual pages against --help: both are made of the same
// texts, and a page that is not up to date, missing or left over is an error.
func TestManPages(t *testing.T) {
	root := newRoot(&env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
	root.Version = "" // the build's, not the page's
	want := map[string][]byte{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		c.DisableAutoGenTag = true // a date of its own would change every page
		var page bytes.Buffer
		date := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		header := &doc.GenManHeader{Section: "1", Source: "netroot", Manual: "netroot", Date: &date}
		if err := doc.GenMan(c, header, &page); err != nil {
			t.Fatal(err)
		}
		want[manName(c)+".1"] = withSections(c, page.String())
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	root.InitDefaultHelpCmd()
	walk(root)
	if *update {
		if err := os.MkdirAll(manDir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, page := range want {
			if err := os.WriteFile(filepath.Join(manDir, name), page, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	have, err := filepath.Glob(manDir + "/*.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range have {
		if want[filepath.Base(path)] == nil {
			t.Errorf("%s describes a verb that is not there", path)
		}
	}
	for name, page := range want {
		got, err := os.ReadFile(filepath.Join(manDir, name))
		if err != nil {
			t.Errorf("%v: run this test with -update", err)
		} else if d := cmp.Diff(string(page), string(got)); d != "" {
			t.Errorf("%s is not what --help says; run this test with -update:\n%s", name, d)
		}
	}
}

// manName is what the manual page of a command is called.
func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// exitStatuses are those of the verbs that have more than the usual ones.
var exitStatuses = map[string]string{
	"vm":         "With --run, the exit status of the command.",
	"serve":      "With --run, the exit status of the command.",
	"shell":      "The exit status of the shell.",
	"exec":       "The exit status of the command.",
	"diff":       "As with diff(1): 0 no difference, 1 differences, 2 trouble.",
	"layer diff": "As with diff(1): 0 no difference, 1 differences, 2 trouble.",
	"layer ls":   "1 when a layer is missing or is not a directory.",
	"layer show": "1 when a node would report something about a layer.",
}

// files are what verbs read and write beside the configuration and the state directory.
var files = map[string][][2]string{
	"build":  {{"/var/lib/netroot/trees/LABEL", "the tree of a label"}, {"/var/lib/netroot/images", "the image store, an OCI image layout"}, {"/var/lib/netroot/logs", "what the sections of builds printed"}, {"/var/lib/netroot/cache", "what builds keep to be faster"}},
	"shell":  {{"/var/lib/netroot/trees/LABEL", "the tree of a label"}},
	"exec":   {{"/var/lib/netroot/trees/LABEL", "the tree of a label"}},
	"vm":     {{"/var/lib/netroot/images", "the image store"}, {"/var/lib/netroot/logs/vm-LABEL.log", "the serial console, with --debug"}},
	"serve":  {{"/var/lib/netroot/images", "the image store"}, {"/var/lib/netroot/nfs.key", "the key that seals NFS file handles"}, {"layers/NAME", "a layer, beside netroot.yaml"}},
	"image":  {{"/var/lib/netroot/images", "the image store, an OCI image layout"}},
	"layer":  {{"layers/NAME", "a layer, beside netroot.yaml"}, {"/etc/rootovl/NAME", "a layer in the tree"}},
	"cache":  {{"/var/lib/netroot/cache", "what builds keep to be faster"}},
	"import": {{"live_netroot_hosts", "the hosts file of fedora-live-netroot"}},
}

// seeAlso are pages of other programs that a verb's reader may need.
var seeAlso = map[string]string{
	"build": "mmdebstrap(1), dnf(8), mksquashfs(1), mkfs.erofs(1)", "vm": "qemu-system-x86_64(1)",
	"serve": "nvme(1), nbd(8), nfs(5), systemd.service(5)", "image": "skopeo(1)",
	"export nfs": "exports(5)", "export nbd": "nbd-server(5)", "export iscsi": "tgt-admin(8), targetcli(8)", "export dhcp": "dnsmasq(8), dhcpd.conf(5)",
}

// verbOf is a command's path without "netroot".
func verbOf(c *cobra.Command) string {
	return strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "netroot"), " ")
}

// withSections adds the sections EXIT STATUS and FILES, and what is to be read beside the page, to
// a page that cobra made.
func withSections(c *cobra.Command, page string) []byte {
	page, related, _ := strings.Cut(page, "\n.SH SEE ALSO\n")
	verb, noun := verbOf(c), strings.Fields(verbOf(c)+" ")
	var b strings.Builder
	b.WriteString(strings.TrimRight(page, "\n") + "\n\n\n.SH EXIT STATUS\n")
	if text := exitStatuses[verb]; text != "" {
		b.WriteString(text + "\n\n.PP\n")
	}
	b.WriteString("0 when the work was done, 1 when it failed, 2 when the command line or the configuration is wrong,\n130 when SIGINT and 143 when SIGTERM ended it.\n")
	paths := [][2]string{{"netroot.yaml, /etc/netroot/netroot.yaml", "the configuration"}, {"/var/lib/netroot", "trees, images and logs, unless netroot.yaml or --state names another directory"}}
	if len(noun) > 0 {
		paths = append(paths, files[noun[0]]...)
	}
	b.WriteString("\n\n.SH FILES\n")
	for _, p := range paths {
		b.WriteString(".TP\n\\fB" + strings.ReplaceAll(p[0], "-", "\\-") + "\\fP\n" + p[1] + "\n")
	}
	pages := []string{}
	if related = strings.TrimSpace(related); related != "" {
		pages = append(pages, related)
	}
	pages = append(pages, "\\fBnetroot.yaml(5)\\fP")
	if text := seeAlso[verb]; text != "" {
		pages = append(pages, text)
	}
	b.WriteString("\n\n.SH SEE ALSO\n" + strings.Join(pages, ", ") + "\n")
	return []byte(b.String())
}

// TestManSectionsNameVerbs: a section of a verb that is gone would be nobody's.
func TestManSectionsNameVerbs(t *testing.T) {
	root := newRoot(&env{})
	for _, verbs := range []iter.Seq[string]{maps.Keys(exitStatuses), maps.Keys(files), maps.Keys(seeAlso)} {
		for verb := range verbs {
			if c, _, err := root.Find(strings.Fields(verb)); err != nil || verbOf(c) != verb && !slices.Contains(c.Aliases, verb) {
				t.Errorf("%q is not a verb", verb)
			}
		}
	}
}

// TestEveryVerbTeaches: a long text and an example for every verb, and flags
// that name their values.
func TestEveryVerbTeaches(t *testing.T) {
	for _, c := range newRoot(&env{}).Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.Long == "" || c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short %q, Long of %d bytes", c.Name(), c.Short, len(c.Long))
		}
	}
}
