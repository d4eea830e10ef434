package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// format is part of every key, so that a state that another version of netroot made in another way
// is not used.
const format = "netroot tree snapshot, format 1"

// Key identifies the state that certain inputs lead to: 64 hexadecimal digits. Equal inputs have
// equal keys.
type Key string

// NewKey returns the key of the inputs that parts describe, in this order. Different lists of parts
// have different keys.
func NewKey(parts ...string) Key {
	h := sha256.New()
	for _, p := range append([]string{format}, parts...) {
		fmt.Fprintf(h, "%d:%s,", len(p), p) // a netstring: cr.yp.to/proto/netstrings.txt
	}
	return Key(hex.EncodeToString(h.Sum(nil)))
}

// Then returns the key of the state that results when a further step, which parts describe, is
// applied to k's state.
func (k Key) Then(parts ...string) Key {
	return NewKey(append([]string{string(k)}, parts...)...)
}

// ID returns the first 12 digits of the key, which are enough for people.
func (k Key) ID() string { return string(k[:min(12, len(k))]) }

func (k Key) check() error {
	if len(k) != 2*sha256.Size || strings.Trim(string(k), "0123456789abcdef") != "" {
		return fmt.Errorf("cache: %q is not a key", string(k))
	}
	return nil
}
