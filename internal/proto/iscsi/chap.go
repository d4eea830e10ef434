package iscsi

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Algorithms of CHAP (IANA "PPP Authentication Algorithms"), and the keys of its exchange (RFC 7143
// §12.1.3).
const (
	chapMD5    = "5"
	chapSHA256 = "7"

	keyAuth      = "AuthMethod"
	keyAlgorithm = "CHAP_A"
	keyID        = "CHAP_I"
	keyChallenge = "CHAP_C"
	keyName      = "CHAP_N"
	keyResponse  = "CHAP_R"
	methodCHAP   = "CHAP"
	maxChallenge = 1024 // bytes
)

// chapAlgorithm picks from a peer's list; "" when it has none of ours.
func chapAlgorithm(list string) string {
	for _, ours := range []string{chapSHA256, chapMD5} {
		for theirs := range strings.SplitSeq(list, ",") {
			if theirs == ours {
				return ours
			}
		}
	}
	return ""
}

// chapDigest is the response to a challenge (RFC 1994 §4.1).
func chapDigest(algorithm string, id byte, secret string, challenge []byte) []byte {
	b := append([]byte{id}, secret...)
	b = append(b, challenge...)
	if algorithm == chapSHA256 {
		sum := sha256.Sum256(b)
		return sum[:]
	}
	sum := md5.Sum(b)
	return sum[:]
}

// challenge is one direction of CHAP: what was asked of a peer.
type challenge struct {
	algorithm string
	id        byte
	bytes     []byte
}

func newChallenge(algorithm string) challenge {
	b := make([]byte, 1+16) // as many as MD5 has, which some peers expect
	rand.Read(b)
	return challenge{algorithm, b[0], b[1:]}
}

// ask appends the challenge's keys.
func (c challenge) ask(t *text) {
	t.add(keyID, fmt.Sprint(c.id))
	t.add(keyChallenge, "0x"+hex.EncodeToString(c.bytes))
}

// asked reads the challenge that a peer's keys hold.
func asked(algorithm string, t text) (challenge, error) {
	idText, _ := t.get(keyID)
	id, err := number(idText, 0, 255)
	if err != nil {
		return challenge{}, fmt.Errorf("CHAP_I: %w", err)
	}
	value, _ := t.get(keyChallenge)
	b, err := binaryValue(value, maxChallenge)
	if err != nil {
		return challenge{}, fmt.Errorf("CHAP_C: %w", err)
	}
	return challenge{algorithm, byte(id), b}, nil
}

// answer appends the name and response that prove the secret.
func (c challenge) answer(t *text, name, secret string) {
	t.add(keyName, name)
	t.add(keyResponse, "0x"+hex.EncodeToString(chapDigest(c.algorithm, c.id, secret, c.bytes)))
}

// check reports with ErrDenied whether a peer's keys prove name and secret.
func (c challenge) check(t text, name, secret string) error {
	gotName, _ := t.get(keyName)
	value, _ := t.get(keyResponse)
	response, err := binaryValue(value, maxChallenge)
	if err != nil {
		return fmt.Errorf("CHAP_R: %w", err)
	}
	want := chapDigest(c.algorithm, c.id, secret, c.bytes)
	right := subtle.ConstantTimeCompare(response, want) & subtle.ConstantTimeCompare([]byte(gotName), []byte(name))
	if right != 1 {
		return fmt.Errorf("%w: wrong CHAP name (%q) or secret", ErrDenied, clip(gotName))
	}
	return nil
}

// binaryValue reads a binary value (§6.1): 0x and hexadecimal digits, or 0b and base64.
func binaryValue(value string, most int) ([]byte, error) {
	if len(value) < 3 || value[0] != '0' || len(value) > 2*most+2 {
		return nil, errors.New("no binary value")
	}
	var b []byte
	var err error
	switch digits := value[2:]; value[1] {
	case 'x', 'X':
		if len(digits)%2 == 1 {
			digits = "0" + digits
		}
		b, err = hex.DecodeString(digits)
	case 'b', 'B':
		b, err = base64.StdEncoding.DecodeString(digits)
	default:
		err = errors.New("no binary value")
	}
	if err == nil && len(b) > most {
		err = fmt.Errorf("%d bytes", len(b))
	}
	return b, err
}
