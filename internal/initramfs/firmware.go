package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"netroot/internal/kernel"
)

// firmwareFile is a file for /lib/firmware.
type firmwareFile struct {
	name string // path below /lib/firmware
	data []byte // decompressed: a kernel may be built without CONFIG_FW_LOADER_COMPRESS
}

// findFirmware returns the files that the modules name and the tree has, sorted by name. Most trees
// lack most of them, and most modules work without; only the machine shows which one it requires.
func findFirmware(ctx context.Context, fsys fs.FS, k *kernel.Kernel, modules []module) ([]firmwareFile, error) {
	// The kernel looks there (drivers/base/firmware_loader/main.c, fw_path); the directory of
	// all modules is beside it.
	top := path.Join(k.ModuleDir, "../../firmware")
	dirs := []string{path.Join(top, "updates", k.Release), path.Join(top, "updates"), path.Join(top, k.Release), top}

	var names []string
	for _, m := range modules {
		names = append(names, m.firmware...)
	}
	slices.Sort(names)
	var files []firmwareFile
	seen := map[string]bool{}
	for _, pattern := range slices.Compact(names) {
		for _, dir := range dirs {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			found, err := findIn(fsys, dir, path.Clean(pattern))
			if err != nil {
				return nil, fmt.Errorf("firmware %s: %w", pattern, err)
			}
			for _, f := range found {
				if !seen[f.name] {
					seen[f.name] = true
					files = append(files, f)
				}
			}
		}
	}
	slices.SortFunc(files, func(a, b firmwareFile) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// findIn looks in one directory for a name, or for the names that match a pattern with '*',
// uncompressed and compressed.
func findIn(fsys fs.FS, dir, pattern string) ([]firmwareFile, error) {
	if !fs.ValidPath(pattern) || pattern == "." {
		return nil, nil
	}
	var files []firmwareFile
	for _, suffix := range append([]string{""}, compressed...) {
		paths := []string{path.Join(dir, pattern+suffix)}
		if strings.ContainsAny(pattern, "*?[") {
			matches, err := fs.Glob(fsys, paths[0])
			if err != nil {
				return nil, err
			}
			paths = matches
		}
		for _, p := range paths {
			info, err := fs.Stat(fsys, p)
			if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
				continue
			}
			if err != nil {
				return nil, err
			}
			data, err := ReadFile(fsys, p)
			if err != nil {
				return nil, err
			}
			files = append(files, firmwareFile{strings.TrimPrefix(plain(p), dir+"/"), data})
		}
	}
	return files, nil
}
