package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// format is part of every key: states that another version of netroot made in another way are not taken for ours.
const format = "netroot tree snapshot, format 1"

// Key names the state that certain inputs lead to: 64 hexadecimal digits. Equal inputs have equal keys.
type Key string

// NewKey returns the key of what parts describe, in this order. No two lists of parts have the same key.
func NewKey(parts ...string) Key {
	h := sha256.New()
	for _, p := range append([]string{format}, parts...) {
		fmt.Fprintf(h, "%d:%s,", len(p), p) // a netstring: cr.yp.to/proto/netstrings.txt
	}
	return Key(hex.EncodeToString(h.Sum(nil)))
}

// Then returns the key of what comes out when something more, that parts describe, is done to k's state.
func (k Key) Then(parts ...string) Key {
	return NewKey(append([]string{string(k)}, parts...)...)
}

// ID is the beginning of the key, long enough for people: 12 digits.
func (k Key) ID() string { return string(k[:min(12, len(k))]) }

func (k Key) check() error {
	if len(k) != 2*sha256.Size || strings.Trim(string(k), "0123456789abcdef") != "" {
		return fmt.Errorf("cache: %q is no key", string(k))
	}
	return nil
}
