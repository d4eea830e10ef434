package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/internal/recipe"
	"netroot/internal/sandbox"
	"netroot/internal/store"
)

// TestCheck has recipes and what is said about them before any work.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, map[string]string{"a": "a", "dir/x": "x", "install.sh": "apt-get install linux-image-amd64", "setup.sh": "true"})
	t.Setenv("INCLUDE", "")
	const (
		noKernel = "the recipe seems to install no kernel"
		debian   = "Bootstrap: debootstrap\nOSVersion: bookworm\nInclude: linux-image-amd64\n"
		image    = "Bootstrap: docker\nFrom: alpine\n"
	)
	for _, tc := range []struct {
		name, text     string
		problem, warns string // a part of the only one; empty: none
		adjust         func(*Options)
	}{
		{name: "fine", text: debian + "%files\n    a /opt/\n    d*/x\n"},
		{name: "unknown agent", text: debian + "\nBootstrap: debotstrap\n", problem: `x.def:5: header: unknown bootstrap agent "debotstrap": use one of arch, busybox,`},
		{name: "library", text: "Bootstrap: library\nFrom: kernel\n", problem: "x.def:1: header: the bootstrap agent library is not built in: fetch the image with `apptainer pull"},
		{name: "shub", text: "Bootstrap: shub\nFrom: kernel\n", problem: "Singularity Hub no longer exists: use a copy"},
		{name: "docker-daemon", text: "From: kernel\nBootstrap: docker-daemon\n", problem: "x.def:2: header: the bootstrap agent docker-daemon is not built in: write the image into a file"},
		{name: "buildkit", text: "Bootstrap: buildkit\nFrom: kernel\n", problem: "buildkit is not built in: build the image with"},
		{name: "dockerfile", text: "Bootstrap: dockerfile\nFrom: kernel\n", problem: "dockerfile is not built in: build the image with"},
		{name: "no image", text: "Bootstrap: docker\n# kernel\n", problem: "x.def:1: header: bootstrap docker: From: is missing"},
		{name: "no such image file", text: "Bootstrap: oci-archive\nFrom: none.tar:kernel\n", problem: "x.def:1: header: bootstrap oci-archive: From: "},
		{name: "no such tree", text: "Bootstrap: localimage\nFrom: none\n", problem: "x.def:1: header: bootstrap localimage: From: "},
		{name: "a tree that %pre makes", text: "Bootstrap: localimage\nFrom: none\n%pre\ntrue\n", warns: "no such file or directory now; %pre must make it"},
		{name: "agent of an updated tree", text: "Bootstrap: shub\n", adjust: func(o *Options) { o.Update = true }},
		{name: "missing source", text: debian + "%files\n    a /opt/\n    none /opt/\n", problem: "x.def:6: %files: no such file on the host: none (relative names start at " + dir},
		{name: "missing by wildcard", text: debian + "%files\n    none* /opt/\n", problem: "x.def:5: %files: no such file on the host: none*"},
		{name: "empty name", text: debian + "%files\n    $INCLUDE /opt/\n", problem: "x.def:5: %files: $INCLUDE: the name is empty"},
		{name: "missing source of an app", text: debian + "%appfiles one\n    none\n", problem: "x.def:5: %appfiles: no such file on the host: none"},
		{name: "source of a stage", text: "Stage: one\n" + debian + "\n" + debian + "%files from one\n    none /opt/\n"},
		{name: "a source that %setup makes", text: debian + "%setup\ntrue\n%files\n    none /opt/\n", warns: "none (relative names start at " + dir + ") now; %setup must make it"},
		{name: "a source that comes too late", text: debian + "%files\n    none /opt/\n\n" + debian + "%pre\ntrue\n", problem: "x.def:5: %files: no such file"},
		{name: "a source that %post makes", text: debian + "%files\n    none /opt/\n", warns: "%post must make it", adjust: func(o *Options) { o.Binds = []sandbox.Bind{{}} }},
		{name: "without %files", text: debian + "%files\n    none /opt/\n", adjust: func(o *Options) { o.Sections = Sections{"post"} }},
		{name: "without %setup", text: debian + "%setup\ntrue\n%files\n    none /opt/\n", problem: "no such file", adjust: func(o *Options) { o.Sections = Sections{"files"} }},

		{name: "container", text: image, warns: "x.def:1: " + noKernel + ", without which no machine can boot the image; install one in %post, for example"},
		{name: "container with packages", text: image + "%post\napk add curl\n", warns: noKernel},
		{name: "no package", text: "Bootstrap: debootstrap\nOSVersion: bookworm\n", warns: "add one to Include, linux-image-amd64 (Ubuntu: linux-image-generic), or build"},
		{name: "nothing", text: "Bootstrap: scratch\n", warns: `copy one with %files, or build with "kernel: none" (--kernel none)`},
		{name: "none is wanted", text: image, adjust: func(o *Options) { o.Kernel = NoKernel }},
		{name: "existing tree", text: image, adjust: func(o *Options) { o.Update = true }},
		{name: "installed in %post", text: image + "%post\napk add linux-lts\n"},
		{name: "Arch", text: "Bootstrap: arch\nInclude: base linux\n"},
		{name: "copied directory", text: image + "%files\n    dir /\n"},
		{name: "copied script", text: image + "%files\n    install.sh /\n%post\n/install.sh\n"},
		{name: "another copied script", text: image + "%files\n    setup.sh /\n%post\n/setup.sh\n", warns: noKernel},
		{name: "script of the host", text: image + "%setup\nrsync -a base/ $SINGULARITY_ROOTFS\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := recipe.Parse("x.def", []byte(tc.text), recipe.Options{})
			must(t, err)
			opt := Options{Recipe: r, Dir: dir}
			if tc.adjust != nil {
				tc.adjust(&opt)
			}
			found := Check(opt)
			var problems, warnings []string
			for i := range found.Problems {
				problems = append(problems, found.Problems[i].Error())
			}
			for _, w := range found.Warnings {
				if !strings.Contains(w.Msg, "this host has no ") {
					warnings = append(warnings, w.String())
				}
			}
			expect(t, "problems", problems, tc.problem)
			expect(t, "warnings", warnings, tc.warns)
			if (found.Err() == nil) != (tc.problem == "") {
				t.Errorf("error %v", found.Err())
			}
		})
	}
}

// TestCheckHost checks that an agent whose program is missing is named before any work.
func TestCheckHost(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for agent, want := range map[string]string{
		"arch": "no pacstrap: install it", "debootstrap": "no mmdebstrap or debootstrap: install it, on Debian", "dnf": "no dnf or yum: install it", "YUM": "no dnf or yum", "zypper": "no zypper", "scratch": "",
	} {
		r, err := recipe.Parse("x.def", []byte("Bootstrap: scratch\n\nBootstrap: "+agent+"\nInclude: kernel\n"), recipe.Options{})
		must(t, err)
		var warnings []string
		for _, w := range Check(Options{Recipe: r}).Warnings {
			warnings = append(warnings, w.String())
		}
		if want != "" {
			want = "x.def:3: header: this host has " + want
		}
		expect(t, agent, warnings, want)
	}
}

func expect(t *testing.T, what string, got []string, part string) {
	t.Helper()
	if part == "" && len(got) > 0 || part != "" && (len(got) != 1 || !strings.Contains(got[0], part)) {
		t.Errorf("%s %q, want %q", what, got, part)
	}
}

// TestSecretKeepsTree checks that the tree is kept as well if its image is refused because of a
// secret, and that an update makes the image once the secret is allowed.
func TestSecretKeepsTree(t *testing.T) {
	s := newSite(t)
	text := tiny + "%post\nmkdir -p /etc/ssl/private\necho '-----BEGIN PRIVATE KEY-----' > /etc/ssl/private/own.key\necho MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF >> /etc/ssl/private/own.key\necho '-----END PRIVATE KEY-----' >> /etc/ssl/private/own.key\n"
	_, err := Run(t.Context(), s.options(t, text, nil))
	failed, ok := errors.AsType[*Error](err)
	if !ok || failed.Phase != "secrets" || failed.Kept != s.tree {
		t.Fatalf("%v; want a tree that is kept", err)
	}
	r, err := Run(t.Context(), s.options(t, text, func(o *Options) { o.Update, o.Allow = true, []string{"/etc/ssl/private/own.key"} }))
	must(t, err)
	if out := s.out.String(); strings.Contains(out, "%post") || r.Image.Name() != imageOf(t, s) {
		t.Errorf("the tree was built again:\n%s", out)
	}
}

// TestWithoutKernel builds a recipe that installs no kernel: it is said at the beginning, the tree
// is kept, and an update makes an image of it, with the kernel that came later or with none.
func TestWithoutKernel(t *testing.T) {
	s := newSite(t)
	text := "Bootstrap: scratch\n%files\nbin/busybox /bin/\n%post -c /bin/busybox sh\nmkdir -p /etc; echo made > /etc/made; busybox --install -s /bin\n"
	build := func(adjust func(*Options)) (*Result, *Error) {
		t.Helper()
		r, err := Run(t.Context(), s.options(t, text, adjust))
		failed, ok := errors.AsType[*Error](err)
		if err != nil && !ok {
			t.Fatal(err)
		}
		return r, failed
	}
	made := func() bool {
		found, _ := filepath.Glob(s.tree + "/etc/made")
		return len(found) > 0
	}
	recipeOfBusybox := text
	text = "Bootstrap: scratch\n"
	_, failed := build(nil)
	if out := s.out.String(); failed == nil || failed.Phase != "kernel" || !strings.HasPrefix(out, "warning: tiny.def:1: the recipe seems to install no kernel") {
		t.Errorf("%v, %q; want a warning at the beginning", failed, out)
	}
	text = recipeOfBusybox
	_, failed = build(nil)
	if failed == nil || failed.Phase != "kernel" || failed.Kept != s.tree || !made() {
		t.Fatalf("%v, kept %q, made %v; want a tree without an image", failed, failed.Kept, made())
	}
	tree, err := OpenTree(s.tree, "tiny", "test")
	must(t, err)
	if c, known, err := tree.Changes(); !known || !c.None() || err != nil || tree.Imaged() {
		t.Errorf("changes %v %v %v, image %v", c, known, err, tree.Imaged())
	}
	must(t, tree.Close())

	// The same build again replaces the kept tree. An update packs it, when it has a kernel.
	if _, failed = build(nil); failed == nil || failed.Kept == "" {
		t.Fatalf("%+v", failed)
	}
	if _, failed = build(func(o *Options) { o.Update = true }); failed == nil || failed.Phase != "kernel" || !made() {
		t.Fatalf("%+v", failed)
	}
	must(t, os.CopyFS(s.tree, os.DirFS(s.dir+"/kernel")))
	if r, failed := build(func(o *Options) { o.Update = true }); failed != nil || r.Image.Config.KernelRelease != release {
		t.Fatalf("%+v", failed)
	}

	// Now the tree has an image, which a build that fails does not replace.
	image, before := imageOf(t, s), listing(t, s.tree)
	if _, failed = build(nil); failed == nil || failed.Kept != "" || imageOf(t, s) != image || listing(t, s.tree) != before {
		t.Errorf("%+v", failed)
	}
	r, failed := build(func(o *Options) { o.Kernel, o.Initramfs = NoKernel, "dracut" })
	if failed != nil {
		t.Fatal(failed)
	}
	var roles []string
	for _, l := range r.Image.Manifest.Layers {
		roles = append(roles, l.Annotations[store.AnnotationRole])
	}
	if strings.Join(roles, " ") != "root" || r.Image.Config.KernelRelease != "" || strings.Contains(s.out.String(), "kernel") {
		t.Errorf("parts %q, kernel %q:\n%s", roles, r.Image.Config.KernelRelease, s.out.String())
	}
}
