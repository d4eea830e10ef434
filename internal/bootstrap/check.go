package bootstrap

import (
	"fmt"
	"os"
	"strings"

	"netroot/internal/recipe"
)

// These are the programs of the agents that run a distribution's tool, each list in the order of
// preference.
var (
	archTools   = []tool{{"pacstrap", "arch-install-scripts", "arch-install-scripts"}}
	debianTools = []tool{{"mmdebstrap", "mmdebstrap", ""}, {"debootstrap", "debootstrap", "debootstrap"}}
	rpmTools    = []tool{{"dnf", "dnf", "dnf"}, {"yum", "", "yum"}}
	suseTools   = []tool{{"zypper", "zypper", "zypper"}}
)

// CheckHost returns what this host lacks for the agent of a stage: the program that the agent runs.
func CheckHost(st *recipe.Stage) (err error) {
	switch strings.ToLower(st.Agent()) {
	case "arch":
		_, err = find(archTools...)
	case "debootstrap":
		_, err = find(debianTools...)
	case "dnf", "yum":
		_, err = findDNF()
	case "zypper":
		_, err = find(suseTools...)
	}
	return err
}

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
