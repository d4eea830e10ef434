package build

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"netroot/internal/cache"
	"netroot/internal/recipe"
)

// cached makes builds use a cache beside the tree.
func (s *site) cached(adjust func(*Options)) func(*Options) {
	return func(o *Options) {
		o.Cache = cache.New(filepath.Join(s.dir, "state/cache"), cache.Options{})
		if adjust != nil {
			adjust(o)
		}
	}
}

func reused(r *Result) string {
	var what []string
	for _, u := range r.Reused {
		what = append(what, u.What)
	}
	return strings.Join(what, ", ")
}

// TestBootstrapKept counts the requests of the agent to a server.
func TestBootstrapKept(t *testing.T) {
	// The trees that are compared contain the time of the build.
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	s := newSite(t)
	onlyBootstrap := func(o *Options) { o.keepAfter = time.Hour }
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.ServeFile(w, r, filepath.Join(s.dir, "bin/busybox"))
	}))
	defer server.Close()
	head := "Bootstrap: busybox\nMirrorURL: " + server.URL + "/busybox\n"
	const rest = "%files\nkernel/* /\n%post\n"
	key := filepath.Join(s.dir, "key")
	must(t, os.WriteFile(key, []byte("one"), 0o644))
	for i, tc := range []struct {
		text   string
		before func()
		asks   bool
	}{
		{text: head + rest + "echo 1 > /x\n", asks: true},
		{text: head + rest + "echo 2 > /x\n"},
		{text: head + "Include: other\n" + rest + "true\n", asks: true},
		{text: head + "%pre\nmkdir $SINGULARITY_ROOTFS/opt; echo 1 > $SINGULARITY_ROOTFS/opt/pre\n" + rest + "cat /opt/pre\n", asks: true},
		{text: head + "%pre\nmkdir $SINGULARITY_ROOTFS/opt; echo 1 > $SINGULARITY_ROOTFS/opt/pre\n" + rest + "grep 1 /opt/pre\n"},
		{text: head + "%pre\nmkdir $SINGULARITY_ROOTFS/opt; echo 2 > $SINGULARITY_ROOTFS/opt/pre\n" + rest + "grep 2 /opt/pre\n", asks: true},
		{text: head + "%pre\nmkdir $SINGULARITY_ROOTFS/opt; cat key > $SINGULARITY_ROOTFS/opt/pre\n" + rest + "true\n", asks: true},
		{text: head + "%pre\nmkdir $SINGULARITY_ROOTFS/opt; cat key > $SINGULARITY_ROOTFS/opt/pre\n" + rest + "grep two /opt/pre\n", asks: true,
			before: func() { must(t, os.WriteFile(key, []byte("two"), 0o644)) }},
		{text: head + "ProductPGP: file://" + key + "\n" + rest + "true\n", asks: true},
		{text: head + "ProductPGP: file://" + key + "\n" + rest + "true\n", asks: true,
			before: func() { must(t, os.WriteFile(key, []byte("three"), 0o644)) }},
		{text: head + "ProductPGP: file://" + key + "\n" + rest + "true\n"},
		{text: head + "GPG: key\n" + rest + "true\n", asks: true},
		{text: head + "GPG: key\n" + rest + "true\n", asks: true, before: func() { must(t, os.WriteFile(key, []byte("four"), 0o644)) }},
		{text: head + "GPG: key\n" + rest + "true\n"},
		// The content of a directory may come from %pre.
		{text: head + "ProductPGP: file://" + s.dir + "\n%pre\ntrue\n" + rest + "true\n", asks: true},
		{text: head + "ProductPGP: file://" + s.dir + "\n%pre\ntrue\n" + rest + "true\n", asks: true},
	} {
		if tc.before != nil {
			tc.before()
		}
		had := asked
		r := s.build(t, tc.text, s.cached(onlyBootstrap))
		if asks := asked > had; asks != tc.asks {
			t.Errorf("%d: the agent asked: %v; want %v", i, asks, tc.asks)
		}
		if same := strings.Contains(s.out.String(), " (as before)"); same != (i > 0) {
			t.Errorf("%d: the initramfs is as before: %v", i, same)
		}
		want := "bootstrap"
		if tc.asks {
			want = ""
		}
		if got := reused(r); got != want || strings.Contains(s.out.String(), "reused the snapshot") == tc.asks {
			t.Errorf("%d: reused %q, want %q; it said\n%s", i, got, want, s.out.String())
		}
		if i == 1 {
			kept := listing(t, s.tree)
			s.build(t, tc.text, nil)
			if d := diff.Diff(listing(t, s.tree), kept); d != "" {
				t.Errorf("the tree without the cache and with it (-without +with):\n%s", d)
			}
		}
	}
}

// TestBootstrapKey checks that the key depends on everything that decides the result, and on
// nothing else.
func TestBootstrapKey(t *testing.T) {
	for _, name := range agentVariables {
		t.Setenv(name, "")
	}
	key := func(version string) cache.Key {
		t.Helper()
		b := &builder{opt: Options{Cache: cache.New(t.TempDir(), cache.Options{}), Version: version}}
		key, err := b.bootstrapKey(t.Context(), &recipe.Stage{Header: recipe.Header{{Key: "Bootstrap", Value: "debootstrap"}}})
		must(t, err)
		return key
	}
	first := key("1")
	if key("2") == first {
		t.Error("another netroot counts for the same")
	}
	for _, name := range []string{"http_proxy", "HTTPS_PROXY", "no_proxy", "INCLUDE", "TERM"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "x.example")
			if same := key("1") == first; same != (name == "TERM") {
				t.Errorf("the same key: %v", same)
			}
		})
	}
	t.Setenv("APT_CONFIG", filepath.Join(t.TempDir(), "apt.conf"))
	seen := []cache.Key{first, key("1")}
	for _, text := range []string{"Acquire::Retries 1;", "Acquire::Retries 2;"} {
		must(t, os.WriteFile(os.Getenv("APT_CONFIG"), []byte(text), 0o644))
		seen = append(seen, key("1"))
	}
	slices.Sort(seen)
	if n := len(slices.Compact(seen)); n != 4 {
		t.Errorf("%d different keys of 4 settings of APT_CONFIG", n)
	}
}

// TestSourcesKey checks that the key of an agent covers the files that its program reads.
func TestSourcesKey(t *testing.T) {
	t.Setenv("APT_CONFIG", "")
	etc := t.TempDir()
	key := func(agent string) string {
		t.Helper()
		parts, err := sourcesKey(t.Context(), agent, etc)
		must(t, err)
		return strings.Join(parts, " ")
	}
	had := map[string]string{"debootstrap": "", "Arch": "", "yum": ""}
	for name, reader := range map[string]string{
		"apt/sources.list": "debootstrap", "apt/sources.list.d/x.sources": "debootstrap",
		"apt/apt.conf": "debootstrap", "apt/apt.conf.d/01proxy": "debootstrap",
		"pacman.conf": "Arch", "pacman.d/mirrorlist": "Arch", "apt/preferences": "", "yum.conf": "",
	} {
		for _, text := range []string{"1", "2"} {
			lay(t, etc, map[string]string{name: text})
			for agent, before := range had {
				now := key(agent)
				if changed := now != before; changed != (agent == reader) {
					t.Errorf("%s changed: the key of %s did: %v", name, agent, changed)
				}
				had[agent] = now
			}
		}
	}
	lay(t, etc, map[string]string{"apt/sources.list.d/gone.list": "-> /nowhere"})
	if key("debootstrap") != had["debootstrap"] {
		t.Error("a link that leads nowhere counts")
	}
}

// TestStagesKept has a first stage whose work takes long and has a different result each time.
func TestStagesKept(t *testing.T) {
	s := newSite(t)
	lay(t, s.dir, map[string]string{"conf": "1"})
	recipe := func(devel, final string) string {
		return fmt.Sprintf(`Bootstrap: scratch
Stage: devel
%%files
bin/busybox /bin/
bin/busybox /bin/sh
%%post
busybox sleep 1.1
busybox mkdir -p /opt
busybox date +%%s.%%N > /opt/made
%s

Bootstrap: scratch
Stage: final
%%files
kernel/* /
bin/busybox /bin/
bin/busybox /bin/sh
conf /etc/conf
%%files from devel
/opt/made
%s`, devel, final)
	}
	var made string
	for i, tc := range []struct {
		devel, final string
		before       func()
		adjust       func(*Options)
		reuses       bool
	}{
		{final: "%post\necho 1 > /x"},
		{final: "%post\necho 2 > /x", reuses: true},
		{final: "\n\n%post\necho 3 > /x\n%test\ntrue", reuses: true},
		{final: "%post\necho 3 > /x\n", before: func() { lay(t, s.dir, map[string]string{"conf": "2"}) }},
		{final: "%post\necho 3 > /x\n", reuses: true},
		{devel: "%test\nexit 0", final: "%post\necho 3 > /x\n"},
		{devel: "%environment\nA=1", final: "%post\necho 3 > /x\n"},
		{devel: "%environment\nA=1", final: "%post\necho 4 > /x\n", reuses: true},
		{devel: "%environment\nA=1", final: "%post\necho 4 > /x\n", adjust: func(o *Options) { o.Sections = Sections{"files", "post"} }},
		{devel: "%environment\nA=1", final: "%post\necho 4 > /x\n", adjust: func(o *Options) { o.Cache = nil }},
		// The effect of a script of the host is unknown.
		{devel: "%setup\ntrue", final: "%post\necho 4 > /x\n"},
		{devel: "%setup\ntrue", final: "%post\necho 4 > /x\n"},
	} {
		if tc.before != nil {
			tc.before()
		}
		r := s.build(t, recipe(tc.devel, tc.final), s.cached(tc.adjust))
		now, err := os.ReadFile(filepath.Join(s.tree, "opt/made"))
		must(t, err)
		conf, err := os.ReadFile(filepath.Join(s.tree, "etc/conf"))
		must(t, err)
		if same := string(now) == made; same != tc.reuses {
			t.Errorf("%d: the first stage's work is the one before: %v; want %v", i, same, tc.reuses)
		}
		if i < 3 && string(conf) != "1" || i >= 3 && string(conf) != "2" {
			t.Errorf("%d: conf is %q", i, conf)
		}
		want := ""
		if tc.reuses {
			want = "final before %post"
		}
		if got := reused(r); got != want || strings.Contains(s.out.String(), "devel is not built") != tc.reuses {
			t.Errorf("%d: reused %q, want %q; it said\n%s", i, got, want, s.out.String())
		}
		made = string(now)
	}
}
