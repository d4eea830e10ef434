package secrets

import (
	"bytes"
	enc "encoding/binary"
)

// keyStore finds a private or secret key in a key store of Java. A store of certificates alone, such
// as cacerts, is not a secret.
var keyStore = check{"a key store with a key", func(text []byte) []int {
	if len(text) < 12 {
		return nil
	}
	found := false
	switch magic := enc.BigEndian.Uint32(text); magic {
	case jks, jceks:
		found = hasKeyEntry(text)
	default: // PKCS 12, the format since Java 9
		found = text[0] == 0x30 && bytes.Contains(text, keyBag)
	}
	if found {
		return []int{0}
	}
	return nil
}}

// The formats JKS and JCEKS (sun.security.provider.JavaKeyStore, com.sun.crypto.provider.JceKeyStore
// of OpenJDK).
const (
	jks   = 0xfeedfeed
	jceks = 0xcececece

	privateEntry     = 1
	certificateEntry = 2
	secretEntry      = 3
)

// keyBag is the object identifier of PKCS 12's bag of an encrypted key, 1.2.840.113549.1.12.10.1.2
// (RFC 7292, 4.2.2).
var keyBag = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02}

// hasKeyEntry reports whether an entry of a JKS or JCEKS store is a key. The text may be cut off.
func hasKeyEntry(text []byte) bool {
	r := reader{text}
	r.skip(4)
	version, count := r.uint32(), r.uint32()
	for range count {
		switch r.uint32() {
		case privateEntry, secretEntry:
			return len(r.rest) > 0
		case certificateEntry:
			r.skip(int(r.uint16())) // alias
			r.skip(8)               // time
			if version == 2 {
				r.skip(int(r.uint16())) // type
			}
			r.skip(int(r.uint32()))
		default:
			return false
		}
	}
	return false
}

// reader reads a text that may end anywhere: behind its end everything is zero.
type reader struct{ rest []byte }

func (r *reader) skip(n int) { r.rest = r.rest[min(len(r.rest), n):] }

func (r *reader) uint16() uint16 {
	if len(r.rest) < 2 {
		r.rest = nil
		return 0
	}
	n := enc.BigEndian.Uint16(r.rest)
	r.skip(2)
	return n
}

func (r *reader) uint32() uint32 { return uint32(r.uint16())<<16 | uint32(r.uint16()) }
