package iscsi

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of key=value text (RFC 7143 §6.1), and of how much of it one request may have.
const (
	maxKey   = 63
	maxText  = 2 * maxReceive
	maxPairs = 64 // answers to as many fit in one PDU
)

// pair is one key=value.
type pair struct{ key, value string }

// text is an ordered list of keys and values.
type text []pair

// parseText reads pairs that each end in NUL. A key may come once.
func parseText(b []byte) (text, error) {
	var t text
	for item := range bytes.SplitSeq(b, []byte{0}) {
		if len(item) == 0 { // after the last one, and padding that some count as data
			continue
		}
		key, value, ok := strings.Cut(string(item), "=")
		switch {
		case !ok || key == "" || len(key) > maxKey:
			return nil, fmt.Errorf("malformed key=value %q", clip(string(item)))
		case t.has(key):
			return nil, fmt.Errorf("key %s twice", key)
		case len(t) == maxPairs:
			return nil, fmt.Errorf("more than %d keys", maxPairs)
		}
		t = append(t, pair{key, value})
	}
	return t, nil
}

func (t text) has(key string) bool {
	_, ok := t.get(key)
	return ok
}

func (t text) get(key string) (string, bool) {
	for _, p := range t {
		if p.key == key {
			return p.value, true
		}
	}
	return "", false
}

func (t *text) add(key, value string) { *t = append(*t, pair{key, value}) }

// encode is the inverse of parseText.
func (t text) encode() []byte {
	var b []byte
	for _, p := range t {
		b = append(b, p.key...)
		b = append(b, '=')
		b = append(b, p.value...)
		b = append(b, 0)
	}
	return b
}

// number reads a numerical value (§6.1: decimal or 0x hexadecimal) between low and high.
func number(value string, low, high uint32) (uint32, error) {
	base := 10
	digits := value
	if len(value) > 2 && value[0] == '0' && (value[1] == 'x' || value[1] == 'X') {
		base, digits = 16, value[2:]
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || uint32(n) < low || uint32(n) > high {
		return 0, fmt.Errorf("%q is not a number from %d to %d", clip(value), low, high)
	}
	return uint32(n), nil
}

func boolean(value string) (bool, error) {
	switch value {
	case valueYes:
		return true, nil
	case valueNo:
		return false, nil
	}
	return false, fmt.Errorf("%q is neither Yes nor No", clip(value))
}

func yesNo(v bool) string {
	if v {
		return valueYes
	}
	return valueNo
}

// clip keeps foreign text in messages short.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// maxName is the length of an iSCSI name in bytes (§4.2.7.2).
const maxName = 223

// checkName refuses what cannot be an iSCSI name. RFC 3722 has more rules; breaking these does no
// harm.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("iSCSI name of %d bytes, from 1 to %d are allowed", len(name), maxName)
	}
	if strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ',' }) >= 0 {
		return errors.New("iSCSI name with a blank, comma or control character")
	}
	return nil
}
