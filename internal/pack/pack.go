// Package pack turns files into the bytes that a node boots from: a tree into a packed root (squashfs.go, erofs.go;
// method.go says which of them a kernel gets), and files in memory into the archive that a kernel unpacks as its first
// root (cpio.go).
//
// It does not choose what goes into an archive, and it neither stores nor serves what it made.
package pack
