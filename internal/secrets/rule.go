package secrets

import (
	"bytes"
	"path"
	"regexp"
	"strings"
)

// rule is the kind of a file with a certain name, if check finds something in it. check returns the
// numbers of the lines, or 0 for the whole file.
type rule struct {
	pattern string // as in path.Match; "**/" at the start stands for any directory
	kind    Kind
	check   func(text []byte) []int
}

// rules are the common places of secrets. The first rule that finds something in a file counts.
var rules = []rule{
	// Operating systems and their accounts.
	{"etc/shadow", PasswordHash, hashes}, {"etc/shadow-", PasswordHash, hashes},
	{"etc/gshadow", PasswordHash, hashes}, {"etc/gshadow-", PasswordHash, hashes},
	{"etc/passwd", PasswordHash, hashes}, {"etc/passwd-", PasswordHash, hashes},
	{"etc/group", PasswordHash, hashes},
	{"etc/security/opasswd", PasswordHash, oldHashes}, {"etc/security/opasswd.old", PasswordHash, oldHashes},
	{"boot/grub*/user.cfg", PasswordHash, lines(`grub\.pbkdf2\.`)},
	{"boot/grub*/grub.cfg", PasswordHash, lines(`grub\.pbkdf2\.`)},
	{"etc/grub.d/*", PasswordHash, lines(`grub\.pbkdf2\.\w+\.[0-9]`)},
	{"etc/machine-id", MachineID, identity}, {"var/lib/dbus/machine-id", MachineID, identity},
	{"var/lib/systemd/random-seed", RandomSeed, whole}, {"var/lib/urandom/random-seed", RandomSeed, whole},
	{"var/lib/random-seed", RandomSeed, whole}, {"var/lib/seedrng/*", RandomSeed, whole}, {"boot/loader/random-seed", RandomSeed, whole},
	{"var/lib/systemd/credential.secret", ServiceKey, whole},
	{"etc/credstore*/*", ServiceKey, whole}, {"usr/lib/credstore*/*", ServiceKey, whole},
	{"etc/luks/*", ServiceKey, whole}, {"etc/cryptsetup-keys.d/*", ServiceKey, whole},

	// Keys by their file names. Other keys are recognized by their content.
	{"etc/ssh/ssh_host_*key", HostKey, keyFile},
	{"**/authorized_keys", AuthorizedKeys, lines(`^\s*[^#\s]`)}, {"**/authorized_keys2", AuthorizedKeys, lines(`^\s*[^#\s]`)},
	{"etc/ssh/authorized_keys.d/*", AuthorizedKeys, lines(`^\s*[^#\s]`)},
	{"**/*.keytab", Keytab, begins("\x05")},
	{"etc/ssl/private/*", PrivateKey, derKey}, {"etc/pki/tls/private/*", PrivateKey, derKey}, {"etc/pki/*/*.key", PrivateKey, derKey},
	{"**/*.p12", PrivateKey, begins("\x30")}, {"**/*.pfx", PrivateKey, begins("\x30")},
	{"**/private-keys-v1.d/*.key", PrivateKey, whole}, {"**/.gnupg/secring.gpg", PrivateKey, whole},
	{"etc/wireguard/*.conf", PrivateKey, setting(`PrivateKey|PresharedKey`)},
	{"etc/systemd/network/*.netdev", PrivateKey, setting(`PrivateKey|PresharedKey`)},

	// Cluster software.
	{"etc/munge/munge.key", MungeKey, whole}, {"etc/munge.key", MungeKey, whole},
	{"etc/slurm*/jwt*.key", ServiceKey, whole}, {"etc/slurm*/slurm.key", ServiceKey, whole}, {"etc/slurm*/slurm.jwks", ServiceKey, whole},
	{"var/spool/slurm*/jwt*.key", ServiceKey, whole},
	{"etc/slurm*/slurmdbd.conf", Password, setting(`StoragePass`)},
	{"etc/ceph/*.keyring", ServiceKey, setting(`key`)}, {"var/lib/samba/private/secrets.tdb", ServiceKey, whole},
	{"etc/kubernetes/*.conf", Token, kubeconfig}, {"**/.kube/config", Token, kubeconfig}, {"etc/rancher/k3s/k3s.yaml", Token, kubeconfig},
	{"etc/ldap.secret", Password, whole}, {"etc/*ldap.secret", Password, whole},
	{"etc/sssd/sssd.conf", Password, setting(`ldap_default_authtok`)}, {"etc/sssd/conf.d/*", Password, setting(`ldap_default_authtok`)},

	// Tools that store credentials.
	{"**/.netrc", Password, lines(`\bpassword\s+\S`)}, {"**/.pgpass", Password, lines(`^[^#].*:[^:]+$`)},
	{"**/.my.cnf", Password, setting(`password`)},
	{"etc/apt/auth.conf", Password, lines(`\bpassword\s+\S`)}, {"etc/apt/auth.conf.d/*", Password, lines(`\bpassword\s+\S`)},
	{"etc/apt/sources.list", Password, urlPassword}, {"etc/apt/sources.list.d/*", Password, urlPassword}, {"etc/apt/apt.conf.d/*", Password, urlPassword},
	{"etc/yum.repos.d/*", Password, repoPassword}, {"etc/yum.conf", Password, repoPassword},
	{"etc/dnf/dnf.conf", Password, repoPassword}, {"etc/zypp/repos.d/*", Password, urlPassword},
	{"etc/zypp/credentials.d/*", Password, setting(`password`)},
	// Files that a build writes from its recipe: the agent's configuration, and the recipe
	// itself after %post.
	{"etc/bootstrap-yum.conf", RecipePassword, repoPassword},
	{".singularity.d/Singularity", RecipePassword, recipePassword}, {".singularity.d/bootstrap_history/*", RecipePassword, recipePassword},
	{".singularity.d/labels.json", RecipePassword, recipePassword},
	{"etc/environment", Password, urlPassword}, {"etc/pip.conf", Password, urlPassword},
	{"**/.pip/pip.conf", Password, urlPassword}, {"**/pip/pip.conf", Password, urlPassword},
	{"**/.pypirc", Password, setting(`password`)},
	{"**/.git-credentials", Password, urlPassword}, {"**/.config/git/credentials", Password, urlPassword}, {"**/.gitconfig", Password, urlPassword},
	{"**/.npmrc", Token, setting(`[^\s#;]*(_authToken|_password|_auth)`)}, {"etc/npmrc", Token, setting(`[^\s#;]*(_authToken|_password|_auth)`)},
	{"**/.docker/config.json", Token, member(`auth|identitytoken|registrytoken`)}, {"**/.dockercfg", Token, member(`auth`)},
	{"**/containers/auth.json", Token, member(`auth|identitytoken|registrytoken`)},
	{"**/.singularity/docker-config.json", Token, member(`auth|identitytoken`)}, {"**/.apptainer/docker-config.json", Token, member(`auth|identitytoken`)},
	{"**/.aws/credentials", Token, setting(`aws_secret_access_key|aws_session_token`)},
	{"**/gcloud/application_default_credentials.json", Token, member(`refresh_token|private_key`)},
	{"**/gcloud/credentials.db", Token, whole}, {"**/.config/gh/hosts.yml", Token, setting(`oauth_token`)},
	{"**/.vault-token", Token, whole}, {"**/.terraform.d/credentials.tfrc.json", Token, member(`token`)},
	{"**/.cargo/credentials*", Token, setting(`token`)},

	// Networks.
	{"etc/NetworkManager/system-connections/*", WiFiKey, setting(`psk|wep-key\d|password|private-key-password|leap-password`)},
	{"etc/wpa_supplicant/*.conf", WiFiKey, setting(`psk|password|wep_key\d|sae_password`)}, {"etc/wpa_supplicant.conf", WiFiKey, setting(`psk|password`)},
	{"var/lib/iwd/*", WiFiKey, setting(`Passphrase|PreSharedKey|EAP-Password`)},
	{"etc/iscsi/iscsid.conf", Password, setting(`[^\s#]*password\S*`)}, {"etc/ppp/*-secrets", Password, lines(`^\s*[^#\s]`)},
}

// rulesFor returns the rules for a file's name, which is relative to the tree.
//
// For a file of a layer in the tree, its place on a node counts: below etc/rootovl/NAME, the rest
// of the path is its name.
func rulesFor(name string) []rule {
	if layer, ok := strings.CutPrefix(name, "etc/rootovl/"); ok {
		if _, file, ok := strings.Cut(layer, "/"); ok {
			name = file
		}
	}
	var out []rule
	for _, r := range rules {
		if r.matches(name) {
			out = append(out, r)
		}
	}
	return out
}

func (r rule) matches(name string) bool {
	pattern, anywhere := strings.CutPrefix(r.pattern, "**/")
	if anywhere { // compare as many of the last components as the pattern has
		start := len(name)
		for range strings.Count(pattern, "/") + 1 {
			if start = strings.LastIndexByte(name[:max(0, start)], '/'); start < 0 {
				break
			}
		}
		name = name[start+1:]
	} else if name[0] != pattern[0] {
		return false // a fast answer for most files
	}
	ok, _ := path.Match(pattern, name) // the tests check every pattern
	return ok
}

// whole means that a file is a secret whatever its content.
func whole([]byte) []int { return []int{0} }

// lines returns a check that finds the lines that match an expression.
func lines(expression string) func([]byte) []int {
	re := regexp.MustCompile(expression)
	return func(text []byte) []int {
		return eachLine(text, re.Match)
	}
}

// setting returns a check that finds lines "name = value" or "name: value" with one of the names,
// in any case, and with a value. Comments, and values that refer to another place ("${VAR}"), do
// not count.
func setting(names string) func([]byte) []int {
	return lines(`(?i)^\s*"?(` + names + `)"?\s*[=:]\s*["']?[^\s"'$#]`)
}

// member returns a check that finds members of JSON objects whose value is a string that is not
// empty.
func member(names string) func([]byte) []int {
	return lines(`"(` + names + `)"\s*:\s*"[^"]`)
}

var (
	urlLine      = regexp.MustCompile(`^\s*[^#\s].*://[^/\s:@]*:[^/\s@$]+@`)
	urlPassword  = lines(urlLine.String())
	setoptLine   = regexp.MustCompile(`(?i)^\s*[^#\s]*setopt"?\s*:.*password\s*=\s*[^\s"'$]`)
	repoSetting  = setting(`password|proxy_password`)
	kubeMember   = setting(`-?\s*(client-key-data|token|password)`)
	cryptPattern = regexp.MustCompile(`^[./0-9A-Za-z]{13}$`) // DES, crypt(5)
)

func repoPassword(text []byte) []int {
	return append(repoSetting(text), urlPassword(text)...)
}

// recipePassword finds a password in the URL of a header key, or in the header's Setopt. Recipes
// are stored as text and as labels.
func recipePassword(text []byte) []int {
	return eachLine(text, func(line []byte) bool {
		return urlLine.Match(line) || setoptLine.Match(line)
	})
}

func kubeconfig(text []byte) []int { return kubeMember(text) }

func begins(magic string) func([]byte) []int {
	return func(text []byte) []int {
		if bytes.HasPrefix(text, []byte(magic)) {
			return []int{0}
		}
		return nil
	}
}

// keyFile checks a file whose name says that it is a private key.
func keyFile(text []byte) []int {
	if _, found := anyKey(text); len(found) > 0 {
		return found
	}
	return []int{0}
}

// derKey finds a private key in PEM or DER: a SEQUENCE that begins with the INTEGER 0 or 1, its
// version (RFC 5958, RFC 8017 appendix A.1.2, RFC 5915). A certificate begins with another
// SEQUENCE.
func derKey(text []byte) []int {
	if len(text) > 8 && text[0] == 0x30 && binary(text) {
		at := 2
		if text[1] > 0x80 {
			at += int(text[1] & 0x7f)
		}
		if at+3 <= len(text) && text[at] == 2 && text[at+1] == 1 && text[at+2] <= 1 {
			return []int{0}
		}
	}
	_, found := anyKey(text)
	return found
}

// identity finds a machine-id that is set: machine-id(5).
func identity(text []byte) []int {
	if id := strings.TrimSpace(string(text)); id == "" || id == "uninitialized" {
		return nil
	}
	return []int{0}
}

// hashes finds the accounts with a password in shadow(5), gshadow(5), passwd(5) and group(5). A
// hash that is locked with a '!' still counts.
func hashes(text []byte) []int {
	return eachLine(text, func(line []byte) bool {
		fields := strings.Split(string(line), ":")
		if len(fields) < 3 {
			return false
		}
		hash := strings.TrimLeft(fields[1], "!*")
		return len(hash) > 0 && (hash[0] == '$' || hash[0] == '_' || cryptPattern.MatchString(hash))
	})
}

// oldHashes finds the accounts in pam_unix's opasswd, "name:uid:count:hash,hash".
func oldHashes(text []byte) []int {
	return eachLine(text, func(line []byte) bool {
		fields := strings.Split(string(line), ":")
		return len(fields) > 3 && strings.TrimSpace(fields[3]) != ""
	})
}

// eachLine returns the numbers, from 1, of the lines for which match returns true.
func eachLine(text []byte, match func([]byte) bool) []int {
	var found []int
	number := 0
	for line := range bytes.Lines(text) {
		number++
		if match(bytes.TrimRight(line, "\r\n")) {
			found = append(found, number)
		}
	}
	return found
}
