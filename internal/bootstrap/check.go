package bootstrap

import (
	"fmt"
	"os"
	"strings"

	"netroot/internal/recipe"
)

// Check returns what the agent of a stage would refuse, as far as that is known without any work:
// an agent that netroot does not have, and a header of an image agent that names no image. The
// error matches fs.ErrNotExist if the header names a file of the host that does not exist; relative
// names start at dir.
func Check(st *recipe.Stage, dir string) error {
	agent := strings.ToLower(st.Agent())
	if _, err := For(agent); err != nil {
		return err
	}
	j := Job{Stage: st, Dir: dir}
	var err error
	switch agent {
	case "docker", "oras":
		_, err = j.reference()
	case "docker-archive", "oci", "oci-archive":
		_, _, err = j.fileAndName()
	case "localimage":
		var from string
		if from, err = j.from("the directory or the image file of the tree to copy"); err == nil {
			if _, err = os.Stat(j.absolute(from)); err != nil {
				err = fmt.Errorf("From: %w", err)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("bootstrap %s: %w", agent, err)
	}
	return nil
}
