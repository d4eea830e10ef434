package secrets

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// keys are private keys of this run, in all formats.
type keys struct {
	pkcs8, pkcs1, sec1, openssh, sealed []byte // PEM
	der, certificate                    []byte // certificate: PEM
}

func newKeys(t testing.TB) keys {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := func(b *pem.Block, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(b)
	}
	raw := func(kind string, der []byte, err error) (*pem.Block, error) {
		return &pem.Block{Type: kind, Bytes: der}, err
	}
	var k keys
	p8, err := x509.MarshalPKCS8PrivateKey(ed)
	k.der = p8
	k.pkcs8 = block(raw("PRIVATE KEY", p8, err))
	k.pkcs1 = block(raw("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(old), nil))
	sec1, err := x509.MarshalECPrivateKey(ec)
	k.sec1 = block(raw("EC PRIVATE KEY", sec1, err))
	k.openssh = block(ssh.MarshalPrivateKey(ed, "root@host"))
	// RFC 1421's header fields, as openssl writes them around an encrypted key.
	k.sealed = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: p8,
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00112233"}})
	template := &x509.Certificate{SerialNumber: old.N}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, ed.Public(), ed)
	k.certificate = block(raw("CERTIFICATE", cert, err))
	return k
}

// plant makes a tree of files.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func scanned(t *testing.T, dir string) []string {
	t.Helper()
	found, err := Scan(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range found {
		out = append(out, fmt.Sprintf("%s:%d %s", f.Path, f.Line, f.Kind))
	}
	return out
}

const secret = "S3CR3T0123456789abcdef"

func TestFound(t *testing.T) {
	k := newKeys(t)
	service := `{"type": "service_account", "private_key": "` + strings.ReplaceAll(string(k.pkcs8), "\n", `\n`) + `"}`
	for _, test := range []struct {
		name, text string
		want       Kind
		lines      []int // nil: 0
	}{
		{"etc/ssh/ssh_host_ed25519_key", string(k.openssh), HostKey, []int{1}},
		{"etc/ssh/ssh_host_key", "SSH PRIVATE KEY FILE FORMAT 1.1\n\x00", HostKey, nil},
		{"root/.ssh/id_ed25519", string(k.openssh), PrivateKey, []int{1}},
		{"etc/any/file", string(k.pkcs8), PrivateKey, []int{1}},
		{"srv/www.pem", string(k.certificate) + string(k.sec1), PrivateKey, []int{1 + strings.Count(string(k.certificate), "\n")}},
		{"srv/two", string(k.pkcs1) + "\n" + string(k.pkcs8), PrivateKey, []int{1, 2 + strings.Count(string(k.pkcs1), "\n")}},
		{"srv/sealed", string(k.sealed), PrivateKey, []int{1}},
		{"srv/dos", strings.ReplaceAll(string(k.pkcs8), "\n", "\r\n"), PrivateKey, []int{1}},
		{"opt/account.json", service, PrivateKey, []int{1}},
		{"srv/pgp", "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n" + strings.Repeat("lQ", 32), PrivateKey, []int{1}},
		{"srv/key.ppk", "PuTTY-User-Key-File-3: ssh-ed25519\n", PrivateKey, []int{1}},
		{"srv/age", "# created\nAGE-SECRET-KEY-1" + strings.Repeat("Q", 58) + "\n", PrivateKey, []int{2}},
		{"var/named/Kx.+013+1.private", "Private-key-format: v1.3\n", PrivateKey, []int{1}},
		{"etc/ssl/private/x.der", string(k.der), PrivateKey, nil},
		{"etc/ssl/private/ssl-cert-snakeoil.key", string(k.pkcs8), PrivateKey, []int{1}},
		{"etc/pki/tls/private/x.key", string(k.pkcs1), PrivateKey, []int{1}},
		{"etc/x/y.p12", "\x30\x82" + secret, PrivateKey, nil},
		{"etc/wireguard/wg0.conf", "[Interface]\nPrivateKey = " + secret, PrivateKey, []int{2}},
		{"etc/shadow", "root:$y$j9T$" + secret + ":20780:0\nbin:*:1:\nold:!$6$" + secret + ":1:\nnew::1:\ndes:" + "abcdefghijklm:1:\n", PasswordHash, []int{1, 3, 5}},
		{"etc/shadow-", "root:$6$x:1:\n", PasswordHash, []int{1}},
		{"etc/rootovl/rack7/etc/shadow", "root:$6$x:1:\n", PasswordHash, []int{1}},
		{"etc/gshadow", "wheel:$6$x::root\n", PasswordHash, []int{1}},
		{"etc/passwd", "root:x:0:0::/root:/bin/sh\nold:$1$x:0:0::/:\n", PasswordHash, []int{2}},
		{"etc/security/opasswd", "u:1000:1:$6$" + secret + "\n", PasswordHash, []int{1}},
		{"boot/grub2/user.cfg", "GRUB2_PASSWORD=grub.pbkdf2.sha512.10000." + secret, PasswordHash, []int{1}},
		{"etc/munge/munge.key", "\x01\x00" + secret, MungeKey, nil},
		{"etc/munge/munge.key.bak", "\x01\x00" + secret, MungeKey, nil},
		{"etc/shadow.dpkg-old", "root:$6$x:1:\n", PasswordHash, []int{1}},
		{"var/backups/shadow.bak", "root:$6$x:1:\n", PasswordHash, []int{1}},
		{"root/shadow", "root:$6$x:1:\n", PasswordHash, []int{1}},
		// What is only warned of does not hide a secret in the same file.
		{"var/lib/snmp/snmpd.conf", "oldEngineID 0x80\nusmUser 1 3 0x80 \"u\" \"u\" NULL .1 0x" + secret + "\n", Password, []int{2}},
		{"root/.ssh/authorized_keys", "ssh-ed25519 AAAA x\n" + string(k.openssh), PrivateKey, []int{2}},
		{"etc/salt/minion_id", "n1\n" + string(k.pkcs8), PrivateKey, []int{2}},
		{"etc/slurm/jwt_hs256.key", secret, ServiceKey, nil},
		{"etc/slurm/slurmdbd.conf", "# StoragePass=x\nStoragePass=" + secret, Password, []int{2}},
		{"etc/krb5.keytab", "\x05\x02" + secret, Keytab, nil},
		{"var/lib/systemd/random-seed", secret, RandomSeed, nil},
		{"var/lib/systemd/credential.secret", secret, ServiceKey, nil},
		{"etc/credstore/db", secret, ServiceKey, nil},
		{"etc/machine-id", "0123456789abcdef0123456789abcdef\n", MachineID, nil},
		{"root/.ssh/authorized_keys", "# mine\nssh-ed25519 AAAA x\n", AuthorizedKeys, []int{2}},
		{"home/u/.netrc", "machine x\n login y password " + secret, Password, []int{2}},
		{"root/.docker/config.json", `{"auths": {"x": {"auth": "` + secret + `"}}}`, Token, []int{1}},
		{"root/.aws/credentials", "[default]\naws_access_key_id = A\naws_secret_access_key = " + secret, Token, []int{3}},
		{"root/.kube/config", "users:\n- name: a\n  user:\n    token: " + secret, Token, []int{4}},
		{"etc/kubernetes/admin.conf", "    client-key-data: " + secret, Token, []int{1}},
		{"root/.git-credentials", "https://me:" + secret + "@git.example.org\n", Password, []int{1}},
		{"root/.npmrc", "//npm.example.org/:_authToken=" + secret, Token, []int{1}},
		{"etc/iscsi/iscsid.conf", "#node.session.auth.password = password\nnode.session.auth.password = " + secret, Password, []int{2}},
		{"etc/pip.conf", "[global]\nindex-url = https://me:" + secret + "@pip.example.org/simple\n", Password, []int{2}},
		{"root/.config/pip/pip.conf", "[global]\nindex-url = https://me:" + secret + "@pip.example.org/simple\n", Password, []int{2}},
		{"etc/apt/auth.conf.d/x.conf", "machine x login y password " + secret, Password, []int{1}},
		{"etc/apt/sources.list.d/x.sources", "URIs: https://me:" + secret + "@deb.example.org\n", Password, []int{1}},
		{"etc/yum.repos.d/x.repo", "[x]\nusername=me\npassword=" + secret, Password, []int{3}},
		{"etc/NetworkManager/system-connections/w.nmconnection", "[wifi-security]\npsk=" + secret, WiFiKey, []int{2}},
		{"etc/wpa_supplicant/w.conf", "network={\n\tpsk=\"" + secret + "\"\n}", WiFiKey, []int{2}},
		{"etc/bootstrap-yum.conf", "[base]\nbaseurl=https://me:" + secret + "@el.example.org/\n", RecipePassword, []int{2}},
		{".singularity.d/Singularity", "Bootstrap: dnf\nMirrorURL: https://me:" + secret + "@el.example.org/\n", RecipePassword, []int{2}},
		{".singularity.d/bootstrap_history/Apptainer0", "Bootstrap: dnf\nSetopt: base.password=" + secret + "\n", RecipePassword, []int{2}},
		{".singularity.d/labels.json", "{\n\t\"org.label-schema.usage.singularity.deffile.mirrorurl\": \"https://me:" + secret + "@el.example.org/\",\n" +
			"\t\"org.label-schema.usage.singularity.deffile.setopt\": \"base.password=" + secret + "\"\n}", RecipePassword, []int{2, 3}},
	} {
		var want []string
		if test.lines == nil {
			test.lines = []int{0}
		}
		for _, n := range test.lines {
			want = append(want, fmt.Sprintf("/%s:%d %s", test.name, n, test.want))
		}
		if diff := cmp.Diff(want, scanned(t, plant(t, map[string]string{test.name: test.text}))); diff != "" {
			t.Error(diff)
		}
	}
}

func TestNotFound(t *testing.T) {
	k := newKeys(t)
	dir := plant(t, map[string]string{
		"etc/shadow":                               "root:*:20780:0\nbin:!:1:\nnobody:!!:1:\nfree::1:\nlocked:!*:1:\nold:*LK*:1:\nnp:*NP*:1:\n",
		"etc/gshadow":                              "wheel:!::root\naudio:*::\nx:::\n",
		"etc/passwd":                               "root:x:0:0::/root:/bin/sh\n+@admins::::::\n",
		"etc/group":                                "root:x:0:\n",
		"etc/machine-id":                           "",
		"var/lib/dbus/machine-id":                  "uninitialized\n",
		"etc/munge/munge.key":                      "",
		"etc/security/opasswd":                     "",
		"root/.ssh/authorized_keys":                "# nobody\n\n",
		"etc/ssl/certs/ca.pem":                     string(k.certificate),
		"etc/ssl/private/cert.pem":                 string(k.certificate),
		"etc/ssh/ssh_host_ed25519_key.pub":         "ssh-ed25519 AAAA\n",
		"etc/ssh/sshd_config":                      "HostKey /etc/ssh/ssh_host_ed25519_key\n",
		"usr/lib/x/ssh-keygen":                     "\x7fELF\x00" + string(k.openssh),
		"usr/lib/python3/x.py":                     "HEAD = '-----BEGIN PRIVATE KEY-----'\nif HEAD in x: pass\n",
		"usr/lib/python3.13/test/keycert":          string(k.pkcs8),
		"opt/node/lib/node_modules/x/test/key.pem": string(k.pkcs8),
		"usr/local/go/src/crypto/tls/x_test.go":    string(k.pkcs8),
		"tmp/key":                                  string(k.pkcs8),
		"run/key":                                  string(k.pkcs8),
		"etc/slurm/slurmdbd.conf":                  "#StoragePass=x\nStoragePass=\n",
		"etc/yum.repos.d/x.repo":                   "baseurl=https://mirror.example.org/a:b@c\n# password=x\ngpgkey=file:///etc/pki/x\n",
		"etc/apt/sources.list":                     "# deb https://me:word@deb.example.org x main\ndeb https://deb.example.org:8080/x y main\n",
		"root/.docker/config.json":                 `{"auths": {"x": {}}, "credsStore": "pass"}`,
		"root/.npmrc":                              "//npm.example.org/:_authToken=${NPM_TOKEN}\n#//npm.example.org/:_authToken=x\n",
		"etc/iscsi/iscsid.conf":                    "#node.session.auth.password = password\n# discovery.sendtargets.auth.password_in = x\n",
		"etc/wpa_supplicant/w.conf":                "network={\n\t#psk=\"x\"\n\tkey_mgmt=NONE\n}",
		"etc/kubernetes/kubelet.conf":              "    client-key: /var/lib/kubelet/pki/x.pem\n",
		"etc/NetworkManager/system-connections/w":  "[connection]\nid=w\n",
		"home/u/.git-credentials":                  "",
		"etc/bootstrap-yum.conf":                   "[base]\nbaseurl=https://el.example.org:8443/a@b/\ngpgcheck=1\n",
		".singularity.d/Singularity":               "Bootstrap: dnf\nMirrorURL: https://el.example.org:8443/a@b\nSetopt: tsflags=nodocs\n# MirrorURL: https://me:word@x.example.org\n%post\n    chpasswd password=x\n",
		".singularity.d/labels.json":               "{\n\t\"org.label-schema.usage.singularity.deffile.mirrorurl\": \"https://el.example.org:8443/a@b\"\n}",
	})
	// A file that is not regular is not opened, and links are not followed.
	outside := plant(t, map[string]string{"key": string(k.pkcs8), "d/key": string(k.pkcs8)})
	for _, err := range []error{
		os.Symlink(filepath.Join(outside, "key"), filepath.Join(dir, "etc/link")),
		os.Symlink(filepath.Join(outside, "d"), filepath.Join(dir, "etc/ssh/dir")),
		unix.Mkfifo(filepath.Join(dir, "etc/ssh/ssh_host_rsa_key"), 0o600),
		os.Mkdir(filepath.Join(dir, "etc/munge.key"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := scanned(t, dir); got != nil {
		t.Errorf("found %s", strings.Join(got, "\n"))
	}
}

func TestLargeAndMany(t *testing.T) {
	k := newKeys(t)
	big := strings.Repeat("x\n", maxFile)
	files := map[string]string{
		"etc/shadow": "root:$6$x:1:\n" + strings.Repeat("user:*:1:\n", 100_000),
		"srv/small":  strings.Repeat("x\n", 50_000) + string(k.pkcs8),
		"srv/log":    string(k.pkcs8) + big, // a file of keys is never that large
	}
	for i := range 2000 {
		files[fmt.Sprintf("srv/d%d/f%d", i%7, i)] = "text\n"
	}
	want := []string{"/etc/shadow:1 password-hash", "/srv/small:50001 private-key"}
	if diff := cmp.Diff(want, scanned(t, plant(t, files))); diff != "" {
		t.Error(diff)
	}
}

func TestScanFails(t *testing.T) {
	if _, err := Scan(t.Context(), filepath.Join(t.TempDir(), "x"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Scan(ctx, plant(t, map[string]string{"a": "", "b": ""}), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRulesAreWhole(t *testing.T) {
	for _, first := range `*?[\` {
		if odd := byName.others[first]; odd != nil {
			t.Errorf("%s is not found by its first byte", odd[0].pattern)
		}
	}
	for _, r := range rules {
		if _, err := path.Match(r.pattern, "x"); err != nil || strings.HasPrefix(r.pattern, "/") {
			t.Errorf("%s: %v", r.pattern, err)
		}
		if _, ok := texts[r.kind]; !ok {
			t.Errorf("%s: kind %q", r.pattern, r.kind)
		}
		// A name that a rule's pattern matches is found by the rule.
		name := strings.NewReplacer("**/", "root/", "*", "x").Replace(r.pattern)
		if !r.matches(name) || !slices.ContainsFunc(rulesFor(name), func(o *rule) bool { return o.pattern == r.pattern }) {
			t.Errorf("%s does not match %s", r.pattern, name)
		}
		if r.matches("elsewhere/"+name) != strings.HasPrefix(r.pattern, "**/") {
			t.Errorf("%s: elsewhere/%s", r.pattern, name)
		}
	}
	for kind, x := range texts {
		if x.name == "" || x.why == "" || x.fix == "" || strings.ContainsAny(x.why+x.fix, "\n") {
			t.Errorf("%s: %+v", kind, x)
		}
	}
}

func TestJudge(t *testing.T) {
	dir := plant(t, map[string]string{
		"etc/munge/munge.key":       secret,
		"etc/shadow":                "root:$6$" + secret + ":1:\n",
		"etc/machine-id":            secret,
		"root/.ssh/authorized_keys": "ssh-ed25519 " + secret,
		"root/.netrc":               "password " + secret,
	})
	found, err := Scan(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	warnings, err := Allow{"etc/munge/", "/root/.net*", "/not/there"}.Judge(found)
	refused, ok := errors.AsType[*Error](err)
	if !ok || len(refused.Findings) != 1 || refused.Findings[0].Path != "/etc/shadow" {
		t.Errorf("refused: %v", err)
	}
	if len(warnings) != 2 || !strings.HasPrefix(warnings[0], "/etc/machine-id: machine id: ") {
		t.Errorf("warnings: %q", warnings)
	}
	if _, err := (Allow{"/etc", "/root/.netrc"}).Judge(found); err != nil {
		t.Errorf("all allowed: %v", err)
	}
	_, err = Allow(nil).Judge(found)
	said := err.Error() + strings.Join(warnings, "")
	for _, want := range []string{"/etc/shadow:1: password hash: ", "/etc/munge/munge.key: munge key: ", "usermod", "--allow-secret PATH"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
	if strings.Contains(said, secret[:6]) {
		t.Errorf("the output contains the secret itself:\n%s", said)
	}
	for _, bad := range []string{"*", "/v*", "", "/", "[", "."} {
		if err := (Allow{bad}).Check(); err == nil {
			t.Errorf("Check takes %q", bad)
		}
	}
	if err := (Allow{"/etc/ssl/private/*.key", "etc"}).Check(); err != nil {
		t.Error(err)
	}
}

// FuzzInspect runs every check on arbitrary bytes.
func FuzzInspect(f *testing.F) {
	for _, s := range []string{"", "\n", "root:$6$x", "-----BEGIN PRIVATE KEY-----\n", "\x30\x82\x01\x00\x02\x01\x00", "\x30\xff\x00\x00\x00\x00\x00\x00\x00", "a://b:c@d", "g", "glpat-", "AKIA"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		count := 1 + strings.Count(string(text), "\n")
		check := func(what string, found []int) {
			for _, n := range found {
				if n < 0 || n > count {
					t.Errorf("%s: line %d of %d", what, n, count)
				}
			}
		}
		for _, r := range rules {
			check(r.pattern, r.check.find(text))
		}
		_, found := distinctive(text)
		check("any", found)
		check("credentials", credentials(text))
	})
}
