package secrets

import (
	"bytes"
	"regexp"
	"strings"
)

// check finds a secret in a file whose name says what it is. find returns the numbers of the lines,
// or 0 for the whole file.
type check struct {
	what string // for docs/security.md
	find func(text []byte) []int
}

// whole means that a file is a secret whatever its content.
var whole = check{"a file that is not empty", func([]byte) []int { return []int{0} }}

// lines returns a check that finds the lines that match an expression.
func lines(what, expression string) check {
	re := regexp.MustCompile(expression)
	return check{what, func(text []byte) []int { return eachLine(text, re.Match) }}
}

// anyLine finds the lines that are not comments.
var anyLine = lines("a line", `^\s*[^#\s]`)

// setting returns a check that finds lines "name = value" or "name: value" with one of the names,
// in any case, and with a value. Comments, and values that refer to another place ("${VAR}"), do
// not count.
func setting(names string) check {
	return lines("`"+strings.ReplaceAll(names, "|", "`, `")+"`", `(?i)^\s*"?(`+names+`)"?\s*[=:]\s*["']?[^\s"'$#<]`)
}

// settings is setting for names that are an expression, which what describes.
func settings(what, names string) check {
	c := setting(names)
	c.what = what
	return c
}

// word returns a check that finds lines that begin with a name and go on with a value, separated by
// blanks.
func word(names string) check {
	return lines("`"+strings.ReplaceAll(names, "|", "`, `")+"`", `(?i)^\s*(`+names+`)\s+["']?[^\s"'$#<]`)
}

// member returns a check that finds members of JSON objects whose value is a string that is not
// empty.
func member(names string) check {
	return lines("`"+strings.ReplaceAll(names, "|", "`, `")+"`", `"(`+names+`)"\s*:\s*"[^"]`)
}

// either returns a check that finds what any of the checks finds.
func either(all ...check) check {
	var what []string
	for _, c := range all {
		what = append(what, c.what)
	}
	return check{strings.Join(what, ", "), func(text []byte) (found []int) {
		for _, c := range all {
			found = append(found, c.find(text)...)
		}
		return found
	}}
}

var (
	urlLine      = regexp.MustCompile(`^\s*[^#\s].*://[^/\s:@]*:[^/\s@$]+@`)
	urlPassword  = lines("a password in a URL", urlLine.String())
	setoptLine   = regexp.MustCompile(`(?i)^\s*[^#\s]*setopt"?\s*:.*password\s*=\s*[^\s"'$]`)
	repoPassword = either(setting("password|proxy_password"), urlPassword)
	kubeconfig   = settings("`client-key-data`, `token`, `password`", `-?\s*(client-key-data|token|password)`)
	netrc        = lines("`password`", `\bpassword\s+\S`)
	grubHash     = lines("a hash of GRUB", `grub\.pbkdf2\.\w+\.[0-9]`)
	mountOption  = lines("the option `password`", `(?i)^\s*[^#\s].*[\s,=](password|pass|password2)=[^\s,$]`)
	cryptPattern = regexp.MustCompile(`^[./0-9A-Za-z]{13}$`) // DES, crypt(5)
)

// recipePassword finds a password in the URL of a header key, or in the header's Setopt. Recipes
// are stored as text and as labels.
var recipePassword = check{"a password in a URL or in `Setopt`", func(text []byte) []int {
	return eachLine(text, func(line []byte) bool {
		return urlLine.Match(line) || setoptLine.Match(line)
	})
}}

func begins(what, magic string) check {
	return check{what, func(text []byte) []int {
		if bytes.HasPrefix(text, []byte(magic)) {
			return []int{0}
		}
		return nil
	}}
}

// keyFile checks a file whose name says that it is a private key.
var keyFile = check{"a file that is not empty", func(text []byte) []int {
	if found := privateKeys(text); len(found) > 0 {
		return found
	}
	return []int{0}
}}

// derKey finds a private key in PEM or DER: a SEQUENCE that begins with the INTEGER 0 or 1, its
// version (RFC 5958, RFC 8017 appendix A.1.2, RFC 5915). A certificate begins with another
// SEQUENCE.
var derKey = check{"a key in DER", func(text []byte) []int {
	if len(text) > 8 && text[0] == 0x30 && binary(text) {
		at := 2
		if text[1] > 0x80 {
			at += int(text[1] & 0x7f)
		}
		if at+3 <= len(text) && text[at] == 2 && text[at+1] == 1 && text[at+2] <= 1 {
			return []int{0}
		}
	}
	return privateKeys(text)
}}

// machineID finds a machine-id that is set: machine-id(5).
var machineID = check{"an id", func(text []byte) []int {
	if id := strings.TrimSpace(string(text)); id == "" || id == "uninitialized" {
		return nil
	}
	return []int{0}
}}

// hashes finds the accounts with a password in shadow(5), gshadow(5), passwd(5) and group(5). A
// hash that is locked with a '!' still counts.
var hashes = check{"a hash", func(text []byte) []int {
	return eachLine(text, func(line []byte) bool {
		fields := strings.Split(string(line), ":")
		if len(fields) < 3 {
			return false
		}
		hash := strings.TrimLeft(fields[1], "!*")
		return len(hash) > 0 && (hash[0] == '$' || hash[0] == '_' || cryptPattern.MatchString(hash))
	})
}}

// oldHashes finds the accounts in pam_unix's opasswd, "name:uid:count:hash,hash".
var oldHashes = check{"the hash of an old password", func(text []byte) []int {
	return eachLine(text, func(line []byte) bool {
		fields := strings.Split(string(line), ":")
		return len(fields) > 3 && strings.TrimSpace(fields[3]) != ""
	})
}}

var (
	envLine = regexp.MustCompile(`(?i)^\s*(?:export\s+)?[A-Z0-9_.-]*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET_?KEY|CREDENTIALS?)\s*[=:]\s*["']?([^"'\s#]+)`)
	example = regexp.MustCompile(`(?i)^[$<{%]|^/|example|change.?me|your|placeholder|dummy|xxx|\*\*\*|^(true|false|null|none|no|yes|[0-9]{1,3})$|\.\.\.`)
)

// environment finds variables whose name says that they are a secret, in the files from which
// programs and containers read them. Values that name a file, another variable or an example do not
// count.
var environment = check{"a variable named `…PASSWORD`, `…SECRET`, `…TOKEN`, `…API_KEY`", func(text []byte) []int {
	return eachLine(text, func(line []byte) bool {
		m := envLine.FindSubmatch(line)
		return m != nil && !example.Match(m[1])
	})
}}

var (
	credentialLine = regexp.MustCompile(`(?i)^\s*(?:#.*|;.*|(?:user|username|dom|domain|workgroup)\s*=.*)?$`)
	credentialPass = regexp.MustCompile(`(?i)^\s*(?:pass|password|password2)\s*=\s*[^\s$<]`)
)

// maxCredentials is the most bytes that a file with the credentials of a mount has.
const maxCredentials = 1024

// credentials finds the password in a file of any name that mount.cifs(8) reads: lines
// "username=NAME", "password=TEXT", "domain=NAME", and nothing else.
func credentials(text []byte) []int {
	if len(text) > maxCredentials || !bytes.Contains(text, []byte("ass")) && !bytes.Contains(text, []byte("ASS")) {
		return nil
	}
	user, other := false, false
	found := eachLine(text, func(line []byte) bool {
		if credentialPass.Match(line) {
			return true
		}
		user = user || bytes.Contains(bytes.ToLower(line), []byte("user"))
		other = other || !credentialLine.Match(line)
		return false
	})
	if !user || other {
		return nil
	}
	return found
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

// binary reports whether a file is not a text.
func binary(text []byte) bool { return bytes.IndexByte(text, 0) >= 0 }
