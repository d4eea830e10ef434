package handoff

import (
	"crypto/sha256"
	"strings"
	"testing"
)

func TestDigest(t *testing.T) {
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // FIPS 180-4's, of no bytes
	d, err := ParseDigest(empty)
	if err != nil || d != DigestOf(nil) || d != DigestSum(sha256.New()) || "sha256:"+d.Hex() != empty || d.Short() != "e3b0c44298fc" {
		t.Errorf("%q, %v, %q, %q", d, err, DigestOf(nil), d.Short())
	}
	for _, s := range []string{"", "sha256:", empty[:70], empty + "0", strings.ToUpper(empty), "md5" + empty[6:], "sha256:" + strings.Repeat("g", 64), " " + empty} {
		if d, err := ParseDigest(s); err == nil || d != "" {
			t.Errorf("%q: %q", s, d)
		}
	}
	if Digest("").Short() != "" || Digest("sha256:ab").Short() != "ab" || Digest("md5:ab").Hex() != "" {
		t.Error("what is not a digest has digits")
	}
}
