package secrets

import (
	"bytes"
	"regexp"
	"slices"
)

// format is a key or token with a distinctive format: a unique prefix, a length and an alphabet.
type format struct {
	mark    string         // how it begins
	pattern *regexp.Regexp // what follows from the mark on
	kind    Kind
	what    string // for docs/security.md: the service and the form
	atLine  bool   // it begins a line
}

func token(mark, rest, what string) format {
	return format{mark: mark, pattern: regexp.MustCompile("^" + regexp.QuoteMeta(mark) + rest), kind: Token, what: what}
}

// tokenFormats are those of services that publish the form of their tokens, so that searches such
// as this one find them.
var tokenFormats = []format{
	// Classic, OAuth, user of an app, server of an app, refresh; fine-grained.
	token("ghp_", `[A-Za-z0-9]{36,251}`, "GitHub"), token("gho_", `[A-Za-z0-9]{36,251}`, "GitHub"),
	token("ghu_", `[A-Za-z0-9]{36,251}`, "GitHub"), token("ghs_", `[A-Za-z0-9]{36,251}`, "GitHub"),
	token("ghr_", `[A-Za-z0-9]{36,251}`, "GitHub"), token("github_pat_", `[A-Za-z0-9]{22}_[A-Za-z0-9]{59}`, "GitHub"),
	// A user's, a runner's, a deployment's, and a trigger's: 20 characters; later versions have more.
	token("glpat-", `[A-Za-z0-9_-]{20,300}`, "GitLab"), token("glrt-", `[A-Za-z0-9_.-]{20,300}`, "GitLab"),
	token("gldt-", `[A-Za-z0-9_-]{20,300}`, "GitLab"), token("glptt-", `[a-f0-9]{40}`, "GitLab"),
	// Of a bot, a user, an app; and an address to send messages to.
	token("xox", `[abeprs]-([0-9]+-){1,4}[A-Za-z0-9]{24,64}`, "Slack"), token("xapp-", `[0-9]-[A-Z0-9]+-[0-9]+-[a-f0-9]{64}`, "Slack"),
	token("hooks.slack.com/services/", `T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{24}`, "Slack"),

	// Clouds. Of an Azure storage account, and of a queue or a function.
	awsID, awsTemporary,
	token("AIza", `[A-Za-z0-9_-]{35}`, "Google"), token("GOCSPX-", `[A-Za-z0-9_-]{28}`, "Google"),
	token("AccountKey=", `[A-Za-z0-9+/]{86}==`, "Azure"), token("SharedAccessKey=", `[A-Za-z0-9+/]{43}=`, "Azure"),
	token("dop_v1_", `[a-f0-9]{64}`, "DigitalOcean"), token("doo_v1_", `[a-f0-9]{64}`, "DigitalOcean"),
	token("hvs.", `[A-Za-z0-9_-]{24,300}`, "HashiCorp Vault"), token("hvb.", `[A-Za-z0-9_-]{100,300}`, "HashiCorp Vault"),
	token("tskey-", `[a-z]+-[A-Za-z0-9]+-[A-Za-z0-9]{20,}`, "Tailscale"),
	token("glsa_", `[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}`, "Grafana"), token("glc_", `eyJ[A-Za-z0-9+/=]{60,}`, "Grafana"),
	token("dapi", `[a-f0-9]{32}(-[0-9])?`, "Databricks"), token("NRAK-", `[A-Z0-9]{27}`, "New Relic"),

	// Models. OpenAI's first tokens have its name in base64 in their middle.
	token("sk-ant-", `[a-z]+[0-9]{2}-[A-Za-z0-9_-]{80,200}`, "Anthropic"),
	token("sk-proj-", `[A-Za-z0-9_-]{40,200}`, "OpenAI"), token("sk-svcacct-", `[A-Za-z0-9_-]{40,200}`, "OpenAI"),
	token("sk-admin-", `[A-Za-z0-9_-]{40,200}`, "OpenAI"), token("sk-", `[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}`, "OpenAI"),
	token("sk-or-v1-", `[a-f0-9]{64}`, "OpenRouter"),
	token("hf_", `[A-Za-z]{34}`, "Hugging Face"), token("nvapi-", `[A-Za-z0-9_-]{60,100}`, "NVIDIA"),
	token("gsk_", `[A-Za-z0-9]{52}`, "Groq"), token("xai-", `[A-Za-z0-9]{80}`, "xAI"), token("pplx-", `[A-Za-z0-9]{48}`, "Perplexity"),
	token("r8_", `[A-Za-z0-9]{37}`, "Replicate"),

	// Registries of packages and images, and services.
	token("npm_", `[A-Za-z0-9]{36}`, "npm"), token("pypi-AgE", `[A-Za-z0-9_-]{60,}`, "PyPI"),
	token("dckr_pat_", `[A-Za-z0-9_-]{27}`, "Docker Hub"), token("dckr_oat_", `[A-Za-z0-9_-]{32}`, "Docker Hub"),
	token("sk_live_", `[A-Za-z0-9]{24,100}`, "Stripe"), token("rk_live_", `[A-Za-z0-9]{24,100}`, "Stripe"),
	token("SG.", `[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}`, "SendGrid"),
}

var (
	// The ID of an AWS access key is not a secret. The secret is in another line, and can be
	// recognised only by its name.
	awsID        = token("AKIA", `[A-Z2-7]{16}`, "AWS")
	awsTemporary = token("ASIA", `[A-Z2-7]{16}`, "AWS")
	awsSecret    = regexp.MustCompile(`(?i)(secret_?(access_?)?key)\w*["']?\s*[=:]\s*["']?([A-Za-z0-9/+]{40})(["'\s,;]|$)`)
)

var formats = slices.Concat(keyFormats, tokenFormats)

// distinctive finds keys and tokens of well-known formats in a file of any name, and returns their
// kind and their lines. Keys come before tokens.
func distinctive(text []byte) (Kind, []int) {
	var keys, tokens []int
	aws := false
	formatMarks.each(text, func(at, n int) {
		switch f := &formats[n]; {
		case !f.matches(text, at):
		case f.kind == PrivateKey:
			keys = append(keys, lineOf(text, at))
		case f.mark == awsID.mark, f.mark == awsTemporary.mark:
			aws = true
		default:
			tokens = append(tokens, lineOf(text, at))
		}
	})
	if keys != nil {
		return PrivateKey, slices.Compact(keys)
	}
	if aws {
		tokens = append(tokens, eachLine(text, func(line []byte) bool {
			m := awsSecret.FindSubmatch(line)
			return m != nil && !placeholder(m[3])
		})...)
	}
	slices.Sort(tokens)
	return Token, slices.Compact(tokens)
}

// matches reports whether there is a key or a token at a position where its mark is.
func (f *format) matches(text []byte, at int) bool {
	if f.atLine && at > 0 && text[at-1] != '\n' {
		return false
	}
	if f.kind == PrivateKey {
		return f.pattern.Match(text[at:])
	}
	if at > 0 && wordByte(text[at-1]) {
		return false
	}
	token := f.pattern.Find(text[at:])
	end := at + len(token)
	return token != nil && (end == len(text) || !wordByte(text[end])) && !placeholder(token[len(f.mark):])
}

// wordByte reports whether a byte can be part of a word.
func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// placeholder reports whether a token, without its mark, is an example from a manual: "ghp_xxxx",
// "glpat-your-token-here", and AWS's example keys, which end in EXAMPLE. Real tokens are random: 16
// characters from an alphabet of 32 have fewer than 8 different ones once in 20,000 tokens, and 20
// from an alphabet of 64 are only small letters and dashes once in 15 million.
func placeholder(token []byte) bool {
	if bytes.Contains(token, []byte("EXAMPLE")) {
		return true
	}
	seen := map[byte]bool{}
	mixed := false
	for _, c := range token {
		seen[c] = true
		mixed = mixed || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z'
	}
	return len(seen) < 8 || !mixed
}
