// Package imagediff compares two images of the store: their packages, every file of their roots,
// and the parts that machines boot from. It reads the images directly; it does not mount them and
// does not require root.
//
// It does not compare the times of files, which every build changes, nor SELinux labels, which come
// from the tree's file system. It does not show what changed inside a file.
package imagediff

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"netroot/internal/squashfs"
	"netroot/internal/store"
)

// Op is the kind of a difference between the first image and the second.
type Op string

// These are the kinds of differences.
const (
	Added   Op = "added"
	Removed Op = "removed"
	Changed Op = "changed"
)

// Diff is the difference between two images.
type Diff struct {
	From     string    `json:"from"` // names of the images, "label@id"
	To       string    `json:"to"`
	Facts    []Fact    `json:"facts"`
	Packages []Package `json:"packages"`
	Files    []File    `json:"files"`
	Parts    []Part    `json:"parts"`
	Notes    []string  `json:"notes,omitempty"` // what was not compared, and why
}

// Empty reports whether machines see no difference between the images. Facts about a build, such as
// the digest of its recipe, do not count.
func (d *Diff) Empty() bool { return len(d.Packages)+len(d.Files)+len(d.Parts) == 0 }

// Fact is a property that the images record about themselves.
type Fact struct {
	Name string `json:"name"` // "kernel", "system", "recipe", "root"
	Old  string `json:"old"`
	New  string `json:"new"`
}

// Package is a package whose version differs. Several versions at once, as of kernels, are
// separated by commas.
type Package struct {
	Op   Op     `json:"op"`
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// Part is a part of an image other than its root, or the root if it can only be compared as a
// whole.
type Part struct {
	Op      Op         `json:"op"`
	Role    store.Role `json:"role"`
	OldSize int64      `json:"oldSize,omitempty"` // in bytes
	NewSize int64      `json:"newSize,omitempty"`
}

// Images compares the image to with the image from, which is usually the older one.
func Images(ctx context.Context, from, to *store.Image) (*Diff, error) {
	before, err := from.Packages()
	if err != nil {
		return nil, err
	}
	after, err := to.Packages()
	if err != nil {
		return nil, err
	}
	d := &Diff{From: from.Name(), To: to.Name(), Facts: facts(from.Config, to.Config),
		Packages: packages(before, after), Files: []File{}, Parts: parts(from, to)}
	rootDiffers := slices.ContainsFunc(d.Parts, func(p Part) bool { return p.Role == store.RoleRoot && p.Op == Changed })
	if !rootDiffers {
		return d, nil
	}
	for _, im := range []*store.Image{from, to} {
		if f := im.Config.RootFormat; f != "squashfs" {
			d.Notes = append(d.Notes, fmt.Sprintf("files are not compared: the root of %s is %s, but only squashfs can be read", im.Name(), cmp.Or(f, "of an unknown format")))
		}
	}
	if d.Notes != nil {
		return d, nil // the parts show that the root differs
	}
	d.Parts = slices.DeleteFunc(d.Parts, func(p Part) bool { return p.Role == store.RoleRoot })
	old, err := readRoot(ctx, from)
	if err != nil {
		return nil, err
	}
	defer old.close()
	young, err := readRoot(ctx, to)
	if err != nil {
		return nil, err
	}
	defer young.close()
	d.Files, err = files(ctx, old, young)
	return d, err
}

func facts(old, young store.Config) []Fact {
	out := []Fact{}
	for _, f := range []Fact{
		{"system", old.System, young.System},
		{"architecture", old.Architecture, young.Architecture},
		{"kernel", old.KernelRelease, young.KernelRelease},
		{"recipe", old.RecipeDigest, young.RecipeDigest},
		{"root", packing(old), packing(young)},
	} {
		if f.Old != f.New {
			out = append(out, f)
		}
	}
	return out
}

// packing returns how a root is packed: "erofs lz4hc".
func packing(c store.Config) string { return strings.TrimSpace(c.RootFormat + " " + c.Compressor) }

// packages compares two lists of "name version".
func packages(old, young []string) []Package {
	before, after := versions(old), versions(young)
	out := []Package{}
	for _, name := range names(before, after) {
		a, b := strings.Join(before[name], ", "), strings.Join(after[name], ", ")
		if a != b {
			out = append(out, Package{opOf(a != "", b != ""), name, a, b})
		}
	}
	return out
}

// opOf returns the kind of difference for something that existed before, exists after, or both.
func opOf(before, after bool) Op {
	switch {
	case !before:
		return Added
	case !after:
		return Removed
	}
	return Changed
}

func versions(list []string) map[string][]string {
	out := make(map[string][]string)
	for _, entry := range list {
		name, version, _ := strings.Cut(entry, " ")
		out[name] = append(out[name], version)
	}
	for _, v := range out {
		slices.Sort(v)
	}
	return out
}

// names returns the keys of two maps, sorted.
func names[V any](a, b map[string]V) []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(all)
	return slices.Compact(all)
}

// parts compares the parts by their digests.
func parts(from, to *store.Image) []Part {
	type layer struct {
		digest string
		size   int64
	}
	layers := func(im *store.Image) map[string]layer {
		out := make(map[string]layer)
		for _, l := range im.Manifest.Layers {
			if l.Annotations[store.AnnotationRole] == string(store.RolePackages) {
				continue // compared as packages
			}
			out[l.Annotations[store.AnnotationRole]] = layer{l.Digest.String(), l.Size}
		}
		return out
	}
	before, after := layers(from), layers(to)
	out := []Part{}
	for _, role := range names(before, after) {
		a, b := before[role], after[role]
		if a != b {
			out = append(out, Part{opOf(a.digest != "", b.digest != ""), store.Role(role), a.size, b.size})
		}
	}
	return out
}

// root is the packed root of an image, and all files in it.
type root struct {
	name  string
	blob  *store.Blob
	fs    *squashfs.FS
	files map[string]*squashfs.File
	first map[uint32]string // first name of each file with several hard links
}

func (r *root) close() { r.blob.Close() }

func readRoot(ctx context.Context, im *store.Image) (*root, error) {
	blob, ok, err := im.Blob(store.RoleRoot)
	if err == nil && !ok {
		err = fmt.Errorf("image %s has no root", im.Name())
	}
	if err != nil {
		return nil, err
	}
	r := &root{im.Name(), blob, nil, make(map[string]*squashfs.File), make(map[uint32]string)}
	if r.fs, err = squashfs.Open(blob); err == nil {
		err = r.fs.Walk(func(path string, f *squashfs.File) error {
			r.files[path] = f
			if _, named := r.first[f.Inode]; !named {
				r.first[f.Inode] = path
			}
			return context.Cause(ctx)
		})
	}
	if err != nil {
		blob.Close()
		return nil, fmt.Errorf("read the root of image %s: %w", im.Name(), err)
	}
	return r, nil
}
