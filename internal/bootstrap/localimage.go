package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// localImage copies another Tree. From is its directory, or a file that contains it: a SIF, a
// squashfs, or an ext3 of Singularity 2. The copy keeps owners, modes, times, hard links, extended
// attributes (including file capabilities and ACLs), sparse files and devices. It does not include
// file systems that are mounted inside the directory; the caller warns of them.
func localImage(ctx context.Context, j Job) error {
	if err := j.refuseFingerprints("run `apptainer verify` on the SIF before the build"); err != nil {
		return err
	}
	from, err := j.from("the directory or the image file of the tree to copy")
	if err != nil {
		return err
	}
	src, err := filepath.EvalSymlinks(j.absolute(from))
	if err != nil {
		return fmt.Errorf("From: %w", err)
	}
	fi, err := os.Stat(src)
	if err != nil {
		return fmt.Errorf("From: %w", err)
	}
	if fi.IsDir() {
		return j.copyTree(ctx, from, src)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("From: %s is neither a directory nor a file", from)
	}
	file, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("From: %w", err)
	}
	defer file.Close()
	return j.installFile(ctx, file, from)
}

// refuseFingerprints refuses the key Fingerprints, which says who must have signed a SIF. netroot
// checks no signature, and ignoring the key would look as if it had. instead is the advice for the
// error.
func (j Job) refuseFingerprints(instead string) error {
	if j.header("Fingerprints") == "" {
		return nil
	}
	return errors.New("Fingerprints: netroot does not check the signatures of a SIF: " + instead + ", and remove the line")
}

func (j Job) copyTree(ctx context.Context, from, src string) error {
	dst, err := filepath.EvalSymlinks(j.Root)
	if err != nil {
		return err
	}
	if within(src, dst) || within(dst, src) {
		return fmt.Errorf("From: %s and the new tree %s must not contain one another", from, j.Root)
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
