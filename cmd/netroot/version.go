package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildFacts are what is known of how this program was built.
type buildFacts struct {
	Version  string `json:"version"`
	Go       string `json:"go"`                 // of the compiler, "go1.26.0"
	Platform string `json:"platform"`           // "linux/amd64"
	Revision string `json:"revision,omitempty"` // of the source; empty: built without its history
	Time     string `json:"time,omitempty"`     // of that revision, RFC 3339
	Modified bool   `json:"modified"`           // the source had changes beside the revision
}

// factsOf reads them from the program's build information, if it has any.
func factsOf(info *debug.BuildInfo) buildFacts {
	f := buildFacts{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info == nil {
		return f
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			f.Revision = s.Value
		case "vcs.time":
			f.Time = s.Value
		case "vcs.modified":
			f.Modified = s.Value == "true"
		}
	}
	return f
}

func versionCmd(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of netroot and how it was built",
		Long: `Version prints the version of netroot, the version of Go that compiled it, the
platform, and the revision of the source if the build had it.

Exit status: 0 done, 2 usage.`,
		Example: `  netroot version
  netroot version --json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			f := factsOf(info)
			if asJSON {
				return e.json(f)
			}
			fmt.Fprintf(e.stdout, "netroot %s\n%s %s\n", f.Version, f.Go, f.Platform)
			if f.Revision != "" {
				changes := ""
				if f.Modified {
					changes = ", with changes"
				}
				fmt.Fprintf(e.stdout, "revision %s of %s%s\n", f.Revision, f.Time, changes)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
