package export

import (
	"strings"
	"testing"
)

func entry(name string) Entry {
	return Entry{
		Name: name, Title: "Title of " + name, Kernel: "netroot/" + name + "@1/vmlinuz", Initrds: []string{"netroot/" + name + "@1/initramfs", "x/y"},
		Cmdline: []string{"root=nbd:10.0.0.1:" + name, "rootovl"},
	}
}

// put adds entries, and returns the text and the DEFAULT that stayed.
func put(t *testing.T, text string, d Default, names ...string) (string, string) {
	t.Helper()
	foreign := ""
	for _, name := range names {
		m, err := ParseMenu("default", text)
		if err != nil {
			t.Fatal(err)
		}
		if foreign, err = m.Put(entry(name), d); err != nil {
			t.Fatal(err)
		}
		text = m.Text()
	}
	return text, foreign
}

func TestMenuGolden(t *testing.T) {
	// This text is another author's, and its last line has no line end.
	const scripts = "# ours since 2012\nDEFAULT pxeboot_old\nTIMEOUT 20\nPROMPT 0\nLABEL pxeboot_old\n        KERNEL vmlinuz_old\n        APPEND initrd=old.img root=x"
	const menu = "UI menu.c32\nPROMPT 1\nMENU TITLE boot\nLABEL disk\n  LOCALBOOT 0\n"
	for _, tt := range []struct {
		name, text string
		d          Default
		put        []string
		foreign    string
	}{
		{"empty", "", DefaultUnlessForeign, []string{"one"}, ""},
		{"two", "", DefaultUnlessForeign, []string{"one", "two"}, ""},
		{"no-default", "", DefaultNo, []string{"one"}, ""},
		{"others-default", scripts, DefaultUnlessForeign, []string{"one"}, "pxeboot_old"},
		{"override", scripts, DefaultYes, []string{"one", "two"}, ""},
		{"others-menu", menu, DefaultUnlessForeign, []string{"one"}, ""},
	} {
		text, foreign := put(t, tt.text, tt.d, tt.put...)
		if foreign != tt.foreign {
			t.Errorf("%s: %q stayed, want %q", tt.name, foreign, tt.foreign)
		}
		golden(t, "menu-"+tt.name+".txt", text)
		if !strings.Contains(text, strings.TrimSuffix(tt.text, "\n")) {
			t.Errorf("%s: the lines of other authors changed", tt.name)
		}
		if again, _ := put(t, text, tt.d, tt.put...); again != text {
			t.Errorf("%s: a second time gives another text:\n%s", tt.name, again)
		}
	}
}

// An entry that is exported again stays at the place to which its owner has moved it.
func TestMenuKeepsPlaces(t *testing.T) {
	text, _ := put(t, "", DefaultUnlessForeign, "one", "two")
	text += "LABEL last\n  LOCALBOOT 0\n"
	text, _ = put(t, text, DefaultNo, "one")
	i, j, k := strings.Index(text, "LABEL one"), strings.Index(text, "LABEL two"), strings.Index(text, "LABEL last")
	if !(0 < i && i < j && j < k) || !strings.Contains(text, "DEFAULT two\n") {
		t.Error(text)
	}
}

func TestMenuRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"x\n# netroot: begin a\nLABEL a\n":                           `default:2: netroot's block a has no end: add "# netroot: end a"`,
		"# netroot: begin a\n# netroot: begin b\n# netroot: end b\n": "default:2: netroot's block a, which begins in line 1",
		"# netroot: begin a\n# netroot: end b\n":                     "default:2: netroot's block a",
		"# netroot: end b\n":                                         "default:1: ",
		"LABEL one\n LOCALBOOT 0\n":                                  "already has an entry one, which netroot did not write",
		"\tlabel\tone\n LOCALBOOT 0\n":                               "already has an entry one, which netroot did not write",
	} {
		m, err := ParseMenu("default", text)
		if err == nil {
			_, err = m.Put(entry("one"), DefaultYes)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	for want, e := range map[string]Entry{
		"control":  {Name: "one", Title: "a\nDEFAULT evil", Kernel: "k", Initrds: []string{"i"}, Cmdline: []string{"r"}},
		"is empty": {Name: "one", Title: "a", Kernel: "k", Initrds: []string{""}, Cmdline: []string{"r"}},
		"shorten":  {Name: "one", Title: "a", Kernel: "k", Initrds: []string{"i"}, Cmdline: []string{strings.Repeat("x", 2000)}},
	} {
		if _, err := new(Menu).Put(e, DefaultYes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", e, err, want)
		}
	}
}

// FuzzMenu checks that the lines of other authors stay unchanged, and that an added entry is found
// again.
func FuzzMenu(f *testing.F) {
	f.Add("DEFAULT x\r\nLABEL x\r\n", true)
	f.Add("# netroot: begin one\nLABEL one\n# netroot: end one\nPROMPT 1", false)
	f.Add("# netroot: begin (default)\n  # netroot: end (default)\n", true)
	f.Fuzz(func(t *testing.T, text string, yes bool) {
		m, err := ParseMenu("default", text)
		if err != nil {
			return
		}
		others := func(m *Menu) string {
			var b strings.Builder
			for _, p := range m.parts {
				if p.block == "" {
					b.WriteString(strings.TrimRight(p.text, "\n") + "\n")
				}
			}
			return b.String()
		}
		before := others(m)
		d := DefaultUnlessForeign
		if yes {
			d = DefaultYes
		}
		foreign, err := m.Put(entry("one"), d)
		if err != nil {
			return
		}
		again, err := ParseMenu("default", m.Text())
		if err != nil {
			t.Fatalf("%v\n%s", err, m.Text())
		}
		if others(again) != before {
			t.Fatalf("of others there was\n%q\nand is\n%q", before, others(again))
		}
		if !strings.Contains(m.Text(), "LABEL one\n") || (foreign == "") != strings.Contains(m.Text(), "DEFAULT one\n") && !strings.Contains(text, "DEFAULT one\n") {
			t.Fatalf("foreign %q:\n%s", foreign, m.Text())
		}
	})
}
