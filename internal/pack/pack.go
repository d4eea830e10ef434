// Package pack turns files into the bytes that a node boots from. It packs a tree into a root image
// (squashfs.go, erofs.go; method.go chooses between them for a kernel), and it packs files in
// memory into the archive that a kernel unpacks as its first root (cpio.go).
//
// It does not choose the content of an archive, and does not store or serve the result.
package pack
