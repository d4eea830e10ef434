package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"netroot/internal/sandbox"
)

// zypper installs openSUSE or SLE with the host's zypper and --root: aaa_base and the packages of
// Include, from MirrorURL, UpdateURL and OtherURL0 to OtherURL19. The repositories stay in the
// Tree; their keys are imported without a check.
//
// For SLE, Product, User and RegCode register the Tree with SUSEConnect (RegisterURL: at another
// server), and Modules adds extensions. ProductPGP is the text of the key that signs SLE's
// packages.
//
// The Tree's own rpm finds the package database even if the host's rpm uses another place or
// format: rpmdb.go.
func zypper(ctx context.Context, j Job) error {
	prog, err := find(suseTools...)
	if err != nil {
		return err
	}
	s, err := suseFrom(j)
	if err != nil {
		return err
	}
	connect := ""
	if s.product != "" {
		if connect, err = find(tool{"SUSEConnect", "", "suseconnect-ng"}); err != nil {
			return err
		}
	}
	db, err := openRPMDB(ctx, j)
	if err != nil {
		return err
	}
	defer db.close()
	key := filepath.Join(db.home, "product.asc")
	if err := os.WriteFile(key, []byte(s.key+"\n"), 0o644); err != nil {
		return err
	}
	if err := baseDirs(j.Root); err != nil {
		return err
	}
	root, err := os.OpenRoot(j.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := rpmDevices(root); err != nil {
		return err
	}
	for _, argv := range s.steps(prog, connect, key, j.Root) {
		err := db.job.run(ctx, argv)
		if exit, ok := errors.AsType[*sandbox.ExitError](err); ok && filepath.Base(argv[0]) == "zypper" && zypperIsDone(exit.Code) {
			j.logf("zypper ended with status %d: everything is installed, but the script of a package failed or requires a restart", exit.Code)
			continue
		}
		if err != nil {
			return err
		}
	}
	if err := root.RemoveAll("var/cache/zypp"); err != nil {
		return err
	}
	return db.handOver(ctx)
}

// zypperIsDone reports whether an exit code of zypper(8) means success with a remark: a restart or
// reboot would be needed, or the script of a package failed.
func zypperIsDone(code int) bool { return code == 102 || code == 103 || code == 107 }

// suse is the parsed header of a zypper recipe.
type suse struct {
	repos    []suseRepo
	version  string
	include  []string
	product  string // NAME/VERSION/ARCH; empty: the system is not registered
	modules  []string
	user     string
	regcode  string
	register string // URL of the registration server, or empty
	key      string // text of ProductPGP
}

type suseRepo struct{ alias, url string }

const maxOtherURLs = 20

func suseFrom(j Job) (suse, error) {
	s := suse{version: j.header("OSVersion"), key: j.header("ProductPGP"), register: j.header("RegisterURL")}
	var err error
	if s.include, err = j.include(); err != nil {
		return s, err
	}
	keys := []struct{ alias, key string }{{"repo", "MirrorURL"}, {"update", "UpdateURL"}}
	for i := range maxOtherURLs {
		n := strconv.Itoa(i)
		keys = append(keys, struct{ alias, key string }{"repo-" + n, "OtherURL" + n})
	}
	for _, k := range keys {
		url := j.header(k.key)
		if osVersion.MatchString(url) && s.version == "" {
			return s, fmt.Errorf("%s: uses %%{OSVERSION}, but OSVersion: is missing: add it", k.key)
		}
		if url = osVersion.ReplaceAllLiteralString(url, s.version); url != "" {
			s.repos = append(s.repos, suseRepo{k.alias, url})
		}
	}
	if err := s.registration(j); err != nil {
		return s, err
	}
	if s.product == "" && (len(s.repos) == 0 || s.repos[0].alias != "repo") {
		return s, errors.New("MirrorURL: is missing: set it to the URL of the distribution's repository")
	}
	return s, nil
}

// registration reads the keys that SLE requires.
func (s *suse) registration(j Job) error {
	product := j.header("Product")
	s.user, s.regcode = j.header("User"), j.header("RegCode")
	if product == "" && s.user == "" && s.regcode == "" {
		return nil
	}
	if product == "" || s.user == "" || s.regcode == "" || s.version == "" {
		return errors.New("Product:, User:, RegCode: and OSVersion: must be used together: one of them is missing")
	}
	if len(s.repos) == 0 && s.key == "" {
		return errors.New("MirrorURL: or ProductPGP: is missing: one of them is required to check the product's packages")
	}
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[goarch]
	if machine == "" {
		machine = goarch
	}
	parts := strings.Split(osVersion.ReplaceAllLiteralString(product, s.version), "/")
	if len(parts) > 3 {
		return fmt.Errorf("Product: %s does not have the form NAME, NAME/VERSION or NAME/VERSION/ARCH", product)
	}
	full := append(parts, []string{"", s.version, machine}[len(parts):]...)
	s.product = strings.Join(full, "/")
	for m := range strings.FieldsFuncSeq(j.header("Modules"), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		s.modules = append(s.modules, m+"/"+full[1]+"/"+full[2])
	}
	s.include = append(s.include, "SUSEConnect")
	return nil
}

// steps returns the command lines in order.
func (s suse) steps(prog, connect, key, root string) [][]string {
	zypper := func(args ...string) []string {
		argv := []string{prog, "--non-interactive", "--gpg-auto-import-keys", "--root", root}
		if s.version != "" {
			argv = append(argv, "--releasever", s.version)
		}
		return append(argv, args...)
	}
	var steps [][]string
	if s.key != "" {
		steps = append(steps, []string{"rpmkeys", "--root", root, "--import", key})
	}
	for _, r := range s.repos {
		steps = append(steps, zypper("addrepo", "--refresh", r.url, r.alias))
	}
	if s.product != "" {
		argv := []string{connect, "--root", root, "--product", s.product, "--email", s.user, "--regcode", s.regcode}
		if s.register != "" {
			argv = append(argv, "--url", s.register)
		}
		steps = append(steps, argv)
		for _, m := range s.modules {
			steps = append(steps, []string{connect, "--root", root, "--product", m})
		}
	}
	install := zypper("install", "--auto-agree-with-licenses", "--download", "in-advance", "aaa_base")
	return append(steps, zypper("refresh"), append(install, s.include...))
}
