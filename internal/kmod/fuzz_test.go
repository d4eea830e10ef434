package kmod_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"netroot/internal/kmod"
)

// FuzzRead checks that no text makes the reader or a load order panic or hang, and that an order
// ends in its module and has each module once.
func FuzzRead(f *testing.F) {
	f.Add(deps, softdeps, aliases, "kernel/lib/lz4.ko\n")
	f.Add("a.ko: a.ko\nb.ko: c.ko\nc.ko:\n", "softdep b pre: a\n", "alias * b\n", "\n#\n")
	f.Fuzz(func(t *testing.T, dep, soft, alias, builtin string) {
		x, err := kmod.Read(texts(map[string]string{"m.dep": dep, "m.softdep": soft, "m.alias": alias, "m.builtin": builtin}), ".")
		if err != nil {
			return
		}
		for _, m := range x.Modules() {
			order, err := x.LoadOrder(m.Name)
			if err != nil || x.Builtin(m.Name) {
				continue
			}
			if len(order) == 0 || order[len(order)-1] != m {
				t.Fatalf("order of %q: %v", m.Name, order)
			}
			seen := map[string]bool{}
			for _, o := range order {
				if seen[o.Name] {
					t.Fatalf("order of %q: %q is there twice", m.Name, o.Name)
				}
				seen[o.Name] = true
			}
			x.Match(m.Path)
		}
	})
}

// FuzzMatch compares the table with path.Match, which differs from fnmatch(3) in four ways: '*' and
// '?' stop at '/', a malformed pattern is an error, runes are matched instead of bytes, and '-' is
// not '_'. Input with such a difference is skipped or mapped.
func FuzzMatch(f *testing.F) {
	f.Add("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001000sv0sd0bc02sc00i00")
	f.Add("usb:d013[0-3]dc*", "usb:d0132dc")
	f.Add("[^a-c]?*x", "dyyx")
	f.Add("a*b*c*d", "abcbcd")
	f.Add("*a**", "ba")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		for _, c := range pattern + s {
			if c <= ' ' || c > '~' || strings.ContainsRune(`/-_\!`, c) {
				t.Skip()
			}
		}
		want, err := path.Match(pattern, s)
		if err != nil || pattern == "" || strings.Contains(pattern, "[]") {
			t.Skip()
		}
		x, err := kmod.Read(texts(map[string]string{"m.alias": "alias " + pattern + " m\n"}), ".")
		if err != nil {
			t.Fatal(err)
		}
		if got := len(x.Match(s)) == 1; got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, s, got, want)
		}
	})
}

// manyAliases makes a table with the size and shape of a distribution's kernel.
func manyAliases() (text string, queries []string) {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for i := range 9000 {
		v, d := r.IntN(300), r.IntN(0xffff)
		fmt.Fprintf(&b, "alias pci:v%08Xd%08Xsv*sd*bc*sc*i* drv_%d\n", v, d, i%700)
		fmt.Fprintf(&b, "alias usb:v%04Xp%04Xd*dc*dsc*dp*ic*isc*ip*in* usb_%d\n", v, d, i%300)
		if i%200 == 0 {
			queries = append(queries, fmt.Sprintf("pci:v%08Xd%08Xsv00001028sd000006B4bc02sc00i00", v, d),
				fmt.Sprintf("usb:v%04Xp%04Xd0100dc00dsc00dp00ic03isc01ip01in00", v, d),
				"acpi:PNP0C0A:", "of:NethernetT(null)Cbrcm,genet-v5")
		}
		if i%10 == 0 {
			fmt.Fprintf(&b, "alias acpi*:PNP%04X:* acpi_%d\nalias of:N*T*Cvendor,chip%d m%d\n", d, i, i, i)
		}
	}
	b.WriteString("alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci\n")
	return b.String(), queries
}

func BenchmarkRead(b *testing.B) {
	text, _ := manyAliases()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		index(b, map[string]string{"m.alias": text})
	}
}

// BenchmarkMatch and BenchmarkMatchNaive match the same 180 strings with the same 19,800 aliases.
func BenchmarkMatch(b *testing.B) {
	text, queries := manyAliases()
	x := index(b, map[string]string{"m.alias": text})
	for b.Loop() {
		for _, q := range queries {
			x.Match(q)
		}
	}
}

func BenchmarkMatchNaive(b *testing.B) {
	text, queries := manyAliases()
	var patterns []string
	for line := range strings.Lines(text) {
		patterns = append(patterns, strings.Fields(line)[1])
	}
	for b.Loop() {
		for _, q := range queries {
			for _, p := range patterns {
				path.Match(p, q)
			}
		}
	}
}

// texts is a directory with these files.
func texts(files map[string]string) fs.FS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}
