package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// liveLine is a line that was replaced by the next one, and the escape sequences of colours.
var liveLine = regexp.MustCompile("[^\n]*\r\x1b\\[K|\x1b\\[[0-9]*m")

// onTerminal runs a command line on a terminal of that many columns, and returns what it printed.
func onTerminal(t *testing.T, columns uint16, args ...string) string {
	t.Helper()
	term := openTerminal(t)
	must(t, unix.IoctlSetWinsize(int(term.tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	run(t.Context(), args, strings.NewReader(""), term.tty, term.tty)
	const end = "the end"
	_, err := term.tty.WriteString(end)
	must(t, err)
	term.expect(t, end)
	term.mu.Lock()
	defer term.mu.Unlock()
	text := strings.ReplaceAll(strings.TrimSuffix(term.text.String(), end), "\r\n", "\n")
	return liveLine.ReplaceAllString(text, "")
}

// tooWide are the lines of a text that a terminal of that many columns would break inside a word.
// Lines of one word, such as a URL, are broken by the terminal, so that they can be copied.
func tooWide(text string, columns int) (wide []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		if utf8.RuneCountInString(line) > columns && strings.Contains(strings.TrimLeft(line, " "), " ") {
			wide = append(wide, line)
		}
	}
	return wide
}

// wideSite is a site whose names and facts are long.
func wideSite(t *testing.T) (dir, name string) {
	dir, im := exportSite(t)
	const layer = "a-layer-with-a-name-that-is-as-long-as-names-of-layers-are"
	file := filepath.Join(dir, "layers", layer, "etc/a-directory-with-a-long-name/and-a-file-with-a-long-name")
	must(t, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("x"), 0o644),
		os.WriteFile(filepath.Join(dir, "netroot.yaml"), []byte(
			"state: state\nlabels:\n  tiny: {tree: tree, cmdline: quiet loglevel=3 systemd.show_status=false, layers: ["+layer+", nosuch-layer]}\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "broken.def"), []byte("Bootstrap: debootstrap\nMirorURL: http://mirror.example/debian\n%post\ntrue\n"), 0o644))
	return dir, im.Name()
}

// TestColumns: what commands print on a terminal fits its width, except with --wide.
func TestColumns(t *testing.T) {
	dir, name := wideSite(t)
	t.Chdir(dir)
	t.Setenv("TERM", "xterm")
	must(t, makeImage("state", "tiny", []byte("another root")))
	for _, line := range []string{
		"image ls", "image show tiny", "image history tiny", "image check", "image gc --verbose --dry-run", "image tag " + name + " prod --why because",
		"image rm " + name, "image show nosuch", "cache ls", "plan tiny", "plan tiny --layers nosuch-layer-with-a-long-name", "diff tiny",
		"layer ls tiny", "layer show tiny", "layer diff tiny", "version", "show broken.def", "build out.sif broken.def", "build broken.def",
		"export nbd tiny --server 10.0.0.1 -o out", "export dhcp tiny --server 10.0.0.1 -o out",
		"vm tiny --firmware uefy", "vm nosuch", "serve --portmap :111 --nfs=", "build tiny --section nosuch", "plan tiny --arch nosuch",
		"image gc --older week", "bulid", "build --levl 3", "build --level", "build --level x tiny", "import nosuch",
	} {
		for _, columns := range []int{80, 50} {
			out := onTerminal(t, uint16(columns), strings.Fields(line)...)
			if out == "" {
				t.Errorf("netroot %s: nothing", line)
			}
			for _, wide := range tooWide(out, columns) {
				t.Errorf("netroot %s: %d columns: %s", line, columns, wide)
			}
		}
	}
	for _, line := range []string{"image ls", "image show tiny", "image history tiny", "layer ls tiny", "layer show tiny"} {
		if out := onTerminal(t, 40, append(strings.Fields(line), "--wide")...); strings.Contains(out, "…") || len(tooWide(out, 40)) == 0 {
			t.Errorf("netroot %s --wide:\n%s", line, out)
		}
	}
}

// TestJSONErrors: a command with --json reports its error as an object, too, also an error of its
// arguments.
func TestJSONErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("broken.def", []byte("Bootstrap: debootstrap\nMirorURL: http://mirror.example/debian\n"), 0o644))
	check := func(args ...string) {
		t.Helper()
		var out, said bytes.Buffer
		args = append(args, "--state", "state")
		code := run(t.Context(), args, strings.NewReader(""), &out, &said)
		var got struct{ Event, Error string }
		dec := json.NewDecoder(&out)
		err := dec.Decode(&got)
		var message strings.Builder
		say(&message, got.Error)
		if code == exitOK || err != nil || got.Error == "" || dec.More() || !strings.HasSuffix(said.String(), message.String()) {
			t.Errorf("%v: exit status %d, %v, %+v\n%s", args, code, err, got, said.String())
		}
		if isEvent := got.Event == "failed"; isEvent != (args[0] == "build") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	n := 0
	commands(newRoot(&env{}), func(c *cobra.Command) {
		if c.Flags().Lookup("json") == nil {
			return
		}
		n++
		words := strings.Fields(c.CommandPath())[1:]
		check(append(words, "--json", "--nosuch")...)
		check(append(words, "--nosuch", "--json")...)
		if !strings.Contains(c.Use, "...") {
			check(append(words, "--json", "a", "b", "c")...)
		}
	})
	if n < 12 {
		t.Errorf("%d commands have --json", n)
	}
	check("image", "lss", "--json")
	check("show", "--json", "broken.def")
	check("build", "--json", "broken.def")
	check("build", "--json", "nosuch")
	check("plan", "--json", "nosuch")
	check("image", "show", "--json", "nosuch")
	must(t, os.WriteFile("netroot.yaml", []byte("lables: {}\n"), 0o644))
	check("image", "ls", "--json")
}
