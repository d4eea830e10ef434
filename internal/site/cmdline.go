package site

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"netroot/internal/nearest"
)

// CheckCmdline names what is wrong with kernel arguments, as far as names and values tell: each
// problem is a line. They are not errors, because the kernel and the init pass over what they do
// not know, and a module of a site may know more. Which programs the root has is not known here.
func CheckCmdline(args []string) []string {
	var problems []string
	packed := packedTypes(args)
	for _, arg := range args {
		key, value, given := strings.Cut(arg, "=")
		if why := checkName(key); why != "" {
			problems = append(problems, "kernel argument "+arg+": "+why)
		}
		for _, why := range checkValue(key, value, given, packed) {
			problems = append(problems, "kernel argument "+arg+": "+why)
		}
	}
	return problems
}

// ours are the arguments that the init reads, of those whose names begin like one of ours; rootdelay
// and rootwait are the kernel's.
var ours = []string{
	"root", "rootfstype", "rootflags", "rootovl", "rootovlcfg", "netroot", "netroot.layer", "rootdelay", "rootwait",
	"rd.shell", "rd.debug", "rd.break", "rd.retry",
}

// checkName recognises a misspelt name of ours. Other names are the kernel's, its modules' or a
// site's, such as roothash= of systemd.
func checkName(key string) string {
	hint := nearest.Hint(key, ours)
	switch {
	case slices.Contains(ours, key):
		return ""
	case strings.HasPrefix(key, "netroot."):
		return "nothing reads it" + hint
	case strings.HasPrefix(key, "rootov") && !strings.Contains(key, "cfg"):
		return `nothing reads it; did you mean "rootovl"?`
	case strings.HasPrefix(key, "root") && hint != "":
		return "nothing reads it" + hint
	}
	return ""
}

// sizes are those of tmpfs(5): bytes with a unit, or a part of the memory.
var sizes = regexp.MustCompile(`^[0-9]+[kKmMgGtT%]?$`)

func checkValue(key, value string, given bool, packed []string) []string {
	switch key {
	case "rootflags":
		return checkFlags(value, packed)
	case "rootfstype":
		if !slices.Contains([]string{"auto", "squashfs", "erofs", "nfs", "nfs4"}, value) {
			return []string{"a packed root is squashfs or erofs"}
		}
	case "rootovl":
		if given && !slices.Contains([]string{"0", "1", "no", "yes"}, value) && !sizes.MatchString(value) {
			return []string{"not a size such as 2G or 30%"}
		}
	case "rd.retry":
		if _, err := strconv.ParseUint(value, 10, 32); err != nil {
			return []string{"not a number of seconds"}
		}
	}
	return nil
}

// packedTypes are the file systems that the packed root may have; none for a tree over NFS, whose
// options are those of nfs(5).
func packedTypes(args []string) []string {
	types := []string{"squashfs", "erofs"}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch {
		case key == "root" && strings.HasPrefix(value, "nfs"), key == "root" && value == "/dev/nfs",
			key == "rootfstype" && strings.HasPrefix(value, "nfs"):
			return nil
		case key == "rootfstype" && slices.Contains(types, value):
			types = []string{value}
		}
	}
	return types
}

// general are options that every mount takes; flags are those of the packed file systems
// (Documentation/filesystems/squashfs.rst and erofs.rst), with their values if those are few.
var (
	general = []string{"ro", "rw", "defaults", "auto", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime"}
	flags   = map[string][]string{
		"squashfs": {"errors=continue", "errors=panic", "threads="},
		"erofs": {"user_xattr", "nouser_xattr", "acl", "noacl", "cache_strategy=disabled", "cache_strategy=readahead",
			"cache_strategy=readaround", "dax", "dax=always", "dax=never", "inode_share"},
	}
)

func checkFlags(value string, packed []string) []string {
	if len(packed) == 0 {
		return nil
	}
	known := slices.Clone(general)
	for _, t := range packed {
		known = append(known, flags[t]...)
	}
	var problems []string
	for option := range strings.SplitSeq(value, ",") {
		found := slices.ContainsFunc(known, func(k string) bool {
			return option == k || strings.HasSuffix(k, "=") && strings.HasPrefix(option, k)
		})
		if !found && option != "" {
			problems = append(problems, fmt.Sprintf("%s has no mount option %s%s", strings.Join(packed, " or "), option, nearest.Hint(option, known)))
		}
	}
	return problems
}
