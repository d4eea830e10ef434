package imagediff

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"netroot/internal/layer"
	"netroot/internal/squashfs"
)

// File is a file that differs.
type File struct {
	Op   Op     `json:"op"`
	Path string `json:"path"`
	Old  *Stat  `json:"old,omitempty"`
	New  *Stat  `json:"new,omitempty"`
	// Differs names the differences of a changed file: "type", "mode", "owner", "target",
	// "device", "link", "xattrs", "content".
	Differs []string `json:"differs,omitempty"`
}

// Stat describes a file without its content.
type Stat struct {
	// Type is "file", "directory", "link", "character device", "block device", "pipe" or
	// "socket".
	Type   string `json:"type"`
	Mode   string `json:"mode"` // octal with special bits: "4755"
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Size   int64  `json:"size,omitempty"`   // in bytes, of a regular file
	Target string `json:"target,omitempty"` // target of a symbolic link
	Device string `json:"device,omitempty"` // "major:minor"
	// Link is the first name, if this is a further hard link.
	Link   string            `json:"link,omitempty"`
	Xattrs map[string]string `json:"-"`
}

var typeNames = map[uint32]string{
	unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFLNK: "link", unix.S_IFIFO: "pipe",
	unix.S_IFSOCK: "socket", unix.S_IFCHR: "character device", unix.S_IFBLK: "block device",
}

func (r *root) stat(path string) *Stat {
	f := r.files[path]
	s := &Stat{Type: typeNames[f.Type()], Mode: fmt.Sprintf("%04o", f.Mode&0o7777), UID: f.UID, GID: f.GID, Target: f.Target, Xattrs: f.Xattrs}
	switch f.Type() {
	case unix.S_IFREG:
		s.Size = f.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		s.Device = fmt.Sprintf("%d:%d", unix.Major(f.Rdev), unix.Minor(f.Rdev))
	}
	if first := r.first[f.Inode]; first != path {
		s.Link = first
	}
	return s
}

// files compares all files of two roots, sorted by path.
func files(ctx context.Context, old, young *root) ([]File, error) {
	out := []File{}
	paths := names(old.files, young.files)
	slices.SortFunc(paths, layer.ByComponents)
	for _, path := range paths {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		a, b := old.files[path], young.files[path]
		switch {
		case a == nil:
			out = append(out, File{Op: Added, Path: path, New: young.stat(path)})
		case b == nil:
			out = append(out, File{Op: Removed, Path: path, Old: old.stat(path)})
		default:
			f := File{Op: Changed, Path: path, Old: old.stat(path), New: young.stat(path)}
			f.Differs = differs(f.Old, f.New)
			if a.Type() == unix.S_IFREG && b.Type() == unix.S_IFREG && f.New.Link == "" {
				same, err := squashfs.Same(old.fs, a, young.fs, b)
				if err != nil {
					return nil, fmt.Errorf("compare %s in %s and %s: %w", path, old.name, young.name, err)
				}
				if !same {
					f.Differs = append(f.Differs, "content")
				}
			}
			if len(f.Differs) > 0 {
				out = append(out, f)
			}
		}
	}
	return out, nil
}

// differs returns the names of the fields in which two files differ.
func differs(a, b *Stat) []string {
	if a.Type != b.Type {
		return []string{"type"}
	}
	var out []string
	for _, field := range []struct {
		name   string
		differ bool
	}{
		{"mode", a.Mode != b.Mode}, {"owner", a.UID != b.UID || a.GID != b.GID}, {"target", a.Target != b.Target},
		{"device", a.Device != b.Device}, {"link", a.Link != b.Link},
		{"xattrs", !maps.Equal(kept(a.Xattrs), kept(b.Xattrs))},
	} {
		if field.differ {
			out = append(out, field.name)
		}
	}
	return out
}

// kept returns the attributes that are compared.
func kept(attrs map[string]string) map[string]string {
	out := maps.Clone(attrs)
	delete(out, "security.selinux")
	return out
}
