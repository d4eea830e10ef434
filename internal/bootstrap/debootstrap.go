package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// debootstrap is the agent that installs Debian or a derivative with mmdebstrap or, if that is
// missing, with debootstrap: the variant minbase, apt, and the packages of Include. It excludes no
// packages (Apptainer excludes udev and e2fsprogs, which machines require).
//
// MirrorURL is the URL of an archive, or lines of sources.list(5) with their options; trusted=yes
// accepts an archive without a signature. GPG is the keyring for the archives, which replaces the
// keys that the host's apt trusts; the Tree keeps it.
//
// Without MirrorURL, the agent uses the host's apt sources (see sources.go) and the network
// settings of the host's apt. mmdebstrap keeps those settings in the Tree, in
// /etc/apt/apt.conf.d/99mmdebstrap, because apt in %post requires them too. A recipe whose nodes
// must not have them removes the file.
func debootstrap(ctx context.Context, j Job) error {
	suite := j.header("OSVersion")
	if suite == "" {
		return errors.New("OSVersion: is missing: set it to the suite, for example `OSVersion: bookworm`")
	}
	if strings.HasPrefix(suite, "-") {
		return fmt.Errorf("OSVersion: %q is not the name of a suite", suite)
	}
	packages, err := j.include()
	if err != nil {
		return err
	}
	prog, err := find(debianTools...)
	if err != nil {
		return err
	}
	d := debian{prog: prog, suite: suite, root: j.Root, include: packages, mirror: j.header("MirrorURL")}
	return d.install(ctx, j)
}

// install finds the sources and the key, and then runs the tool.
func (d debian) install(ctx context.Context, j Job) (err error) {
	if d.key, err = j.aptKey(ctx); err != nil {
		return err
	}
	if d.mirror == "" {
		all, err := readSources("/etc")
		if err != nil {
			return err
		}
		d.sources = forSuite(all, hostSuite(), d.suite)
		if len(d.sources) == 0 {
			return fmt.Errorf("MirrorURL: is missing, and this host's apt sources have no archive for %s: add MirrorURL", d.suite)
		}
		j.logf("no MirrorURL: using this host's apt sources for %s", d.suite)
	}
	if d.key != nil {
		dir, file, err := writeKeyring(d.key)
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		d.keyring, d.sources = file, withoutKeys(d.sources)
	}
	if slices.ContainsFunc(parseList(d.mirror), source.trusted) {
		j.logf("MirrorURL has trusted=yes: signatures are not checked")
	}
	settings := aptSettings(ctx)
	if filepath.Base(d.prog) == "mmdebstrap" {
		err = d.mmdebstrap(ctx, j, settings)
	} else {
		err = d.debootstrap(ctx, j, settings)
	}
	if err != nil {
		return err
	}
	if err := d.keepKey(); err != nil {
		return err
	}
	return forgetHost(j.Root)
}

// debian is one run of mmdebstrap or debootstrap. Either mirror or sources is set.
type debian struct {
	prog, suite, root string
	include           []string
	mirror            string
	sources           []source
	components        []string // components of debootstrap's archive; empty: main
	key               []byte   // keyring of the archives; nil: the host's keys
	keyring           string   // file that contains key, in a directory of its own
}

func (d debian) mmdebstrap(ctx context.Context, j Job, settings []setting) error {
	mirror := d.mirror
	if mirror == "" {
		dir, err := os.MkdirTemp("", "netroot-apt-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		// mmdebstrap gives the file this name in the Tree, after a number.
		mirror = filepath.Join(dir, "host.sources")
		if err := os.WriteFile(mirror, []byte(render(d.sources)), 0o644); err != nil {
			return err
		}
	}
	left, err := os.ReadDir(d.root)
	if err != nil {
		return err
	}
	return j.run(ctx, d.mmdebstrapArgs(mirror, settings, len(left) == 0))
}

func (d debian) mmdebstrapArgs(mirror string, settings []setting, empty bool) []string {
	argv := []string{d.prog, "--mode=root", "--format=directory", "--variant=minbase"}
	if !empty { // %pre has put files there
		argv = append(argv, "--skip=check/empty")
	}
	if len(d.include) > 0 {
		argv = append(argv, "--include="+strings.Join(d.include, ","))
	}
	// The directory is for Dir::Etc::TrustedParts; without it mmdebstrap adds Debian's key for
	// Debian's suites.
	if d.keyring != "" {
		argv = append(argv, "--keyring="+filepath.Dir(d.keyring), "--keyring="+d.keyring, "--skip=check/signed-by")
	}
	for _, s := range settings {
		argv = append(argv, "--aptopt="+s.String())
	}
	return append(argv, d.suite, d.root, mirror)
}

// debootstrap installs from one archive only, without -updates and -security. The Tree's apt then
// gets all archives and upgrades from them, so that the Tree is as new as mmdebstrap's.
func (d debian) debootstrap(ctx context.Context, j Job, settings []setting) error {
	if isList(d.mirror) {
		all := parseList(d.mirror)
		i := slices.IndexFunc(all, func(s source) bool { return s.has(d.suite) })
		if i < 0 {
			return fmt.Errorf("MirrorURL: no line is for the suite %s", d.suite)
		}
		d.mirror, d.sources, d.components = "", all, all[i].Components
	}
	if err := j.run(ctx, d.debootstrapArgs(), proxyEnv(j, settings)...); err != nil || d.mirror != "" {
		return err
	}
	r, err := os.OpenRoot(d.root)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := d.keepKey(); err != nil { // apt in the Tree requires it now
		return err
	}
	if err := r.WriteFile("etc/apt/sources.list.d/host.sources", []byte(render(d.sources)), 0o644); err != nil {
		return err
	}
	if err := r.Remove("etc/apt/sources.list"); err != nil {
		return err
	}
	inside := j
	inside.Env = append(slices.Clone(j.environ()), proxyEnv(j, settings)...)
	return inside.runInside(ctx, "/bin/sh", "-ec", `export DEBIAN_FRONTEND=noninteractive
		apt-get -q update
		apt-get -q -y dist-upgrade
		apt-get clean
		rm -rf /var/lib/apt/lists/*`)
}

func (d debian) debootstrapArgs() []string {
	mirror, trusted := d.mirror, false
	for _, s := range d.sources {
		if mirror == "" && s.has(d.suite) && len(s.URIs) > 0 {
			mirror, trusted = s.URIs[0], s.trusted()
		}
	}
	argv := []string{d.prog, "--variant=minbase", "--include=" + strings.Join(append([]string{"apt"}, d.include...), ",")}
	if len(d.components) > 0 {
		argv = append(argv, "--components="+strings.Join(d.components, ","))
	}
	switch {
	case trusted:
		argv = append(argv, "--no-check-gpg")
	case d.keyring != "":
		argv = append(argv, "--keyring="+d.keyring, "--force-check-gpg")
	}
	return append(argv, d.suite, d.root, mirror)
}

// keepKey makes the Tree's apt trust the recipe's keyring.
func (d debian) keepKey() error {
	if d.key == nil {
		return nil
	}
	root, err := os.OpenRoot(d.root)
	if err != nil {
		return err
	}
	defer root.Close()
	return writeMeta(root, treeKey, string(d.key), 0o644)
}

// proxyEnv returns apt's proxy as environment variables for debootstrap, which does not read apt's
// settings.
func proxyEnv(j Job, settings []setting) []string {
	var env []string
	for _, s := range settings {
		name, ok := map[string]string{"acquire::http::proxy": "http_proxy", "acquire::https::proxy": "https_proxy"}[strings.ToLower(s.name)]
		if ok && j.getenv(name) == "" {
			env = append(env, name+"="+s.value)
		}
	}
	return env
}

// setting is a setting of apt, such as Acquire::http::Proxy.
type setting struct{ name, value string }

func (s setting) String() string { return s.name + ` "` + s.value + `"` }

// aptSettings queries the host's apt for its settings. Without apt there are none.
func aptSettings(ctx context.Context) []setting {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil
	}
	return parseSettings(string(out))
}

// parseSettings selects from the output of apt-config dump the settings about the network and
// trust: apt.conf(5), "The Acquire group", and apt-transport-https(1). The others (hooks, caches,
// languages) concern only the host.
func parseSettings(dump string) []setting {
	var out []setting
	for line := range strings.Lines(dump) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSuffix(strings.TrimPrefix(value, `"`), `";`)
		if !ok || value == "" || strings.HasSuffix(name, "::") {
			continue
		}
		group, isAcquire := strings.CutPrefix(strings.ToLower(name), "acquire::")
		for _, p := range []string{"http::", "https::", "check-", "max-futuretime", "max-validtime", "min-validtime", "retries", "forceipv"} {
			if isAcquire && strings.HasPrefix(group, p) {
				out = append(out, setting{name, value})
				break
			}
		}
	}
	return out
}

// forgetHost removes the files with the host's identity that both tools copy into the Tree, unless
// they have changed since.
func forgetHost(root string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, name := range []string{"etc/resolv.conf", "etc/hostname"} {
		host, err := os.ReadFile("/" + name)
		if err != nil {
			continue
		}
		if fi, err := r.Lstat(name); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if ours, err := r.ReadFile(name); err != nil || string(ours) != string(host) {
			continue
		}
		if err := r.Remove(name); err != nil {
			return fmt.Errorf("remove the copy of the host's /%s from the tree: %w", name, err)
		}
	}
	return nil
}
