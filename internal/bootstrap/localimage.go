package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// localImage copies another Tree: From is its directory. Owners, modes, times, hard links, extended attributes (with
// them file capabilities and ACLs), sparse files and devices arrive as they are; what is mounted inside does not.
func localImage(ctx context.Context, j Job) error {
	from := j.header("From")
	if from == "" {
		return errors.New("From: is missing: name the directory of the tree to copy")
	}
	from = strings.TrimPrefix(from, "localimage://")
	src, err := filepath.EvalSymlinks(j.absolute(from))
	if err != nil {
		return fmt.Errorf("From: %w", err)
	}
	fi, err := os.Stat(src)
	if err != nil {
		return fmt.Errorf("From: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("From: %s is a file: only directories can be copied, image files are not built in yet", from)
	}
	dst, err := filepath.EvalSymlinks(j.Root)
	if err != nil {
		return err
	}
	if within(src, dst) || within(dst, src) {
		return fmt.Errorf("From: %s and the tree to be made, %s, lie one inside the other", from, j.Root)
	}
	cp, err := find(tool{"cp", "coreutils", "coreutils"})
	if err != nil {
		return err
	}
	return j.run(ctx, []string{
		cp, "--archive", "--one-file-system", "--reflink=auto", "--sparse=auto", "--no-target-directory", "--", src, dst,
	})
}

// within reports whether path is dir or lies below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
