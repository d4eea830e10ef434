package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"

	"netroot/internal/recipe"
)

// Apps are the Scientific Filesystem's (sci-f.github.io/specification): each has
// a directory below /scif/apps with its programs, and what is known of it in
// "scif" there; /scif/data is for what it reads and writes.

const (
	appsDir     = "scif/apps"
	appDataDir  = "scif/data"
	appsBaseEnv = metaDir + "/env/94-appsbase.sh"
)

// makeApps makes the directories and files of a stage's apps, all but what
// %appinstall does. copy copies one line of an app's %appfiles.
func makeApps(root *os.Root, apps []recipe.App, copy func(recipe.FileEntry) error) error {
	known, err := root.ReadFile(appsBaseEnv)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, app := range apps {
		if !appName.MatchString(app.Name) {
			return fmt.Errorf("line %d: %q cannot name an app: use letters, digits and ._+-", app.Line, app.Name)
		}
		if err := makeApp(root, app); err != nil {
			return fmt.Errorf("app %s: %w", app.Name, err)
		}
		for _, e := range app.Files {
			if e.Dst == "" {
				e.Dst = e.Src
			}
			// Joined as text: the slash at the end says that a directory is meant.
			e.Dst = "/" + appsDir + "/" + app.Name + "/" + e.Dst
			if err := copy(e); err != nil {
				return fmt.Errorf("app %s: line %d: %s: %w", app.Name, e.Line, e.Src, err)
			}
		}
		if text := appExports(app); !bytes.Contains(known, text) {
			known = append(known, text...)
		}
	}
	return writeFile(root, appsBaseEnv, known, 0o755)
}

func makeApp(root *os.Root, app recipe.App) error {
	dir, data := path.Join(appsDir, app.Name), path.Join(appDataDir, app.Name)
	meta := path.Join(dir, "scif")
	for _, d := range []string{dir + "/bin", dir + "/lib", data + "/input", data + "/output"} {
		if err := makeDir(root, d); err != nil {
			return err
		}
	}
	labels := map[string]string{"SCIF_APP_NAME": app.Name}
	for _, l := range app.Labels {
		labels[l.Key] = l.Value
	}
	list, err := json.MarshalIndent(labels, "", "\t")
	if err != nil {
		return err
	}
	files := []struct {
		name string
		text []byte
		mode os.FileMode
	}{
		{"env/01-base.sh", appEnvironment(app.Name), 0o755},
		{"labels.json", list, 0o644},
		{"env/90-environment.sh", body(app.Env), 0o755},
		{"runscript", executable(app.Run), 0o755},
		{"startscript", executable(app.Start), 0o755},
		{"test", executable(app.Test), 0o755},
		{"runscript.help", body(app.Help), 0o644},
	}
	for _, f := range files {
		if f.text == nil {
			continue
		}
		if err := writeFile(root, path.Join(meta, f.name), f.text, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// body is a section's text, nil if there is none.
func body(s *recipe.Script) []byte {
	if s == nil {
		return nil
	}
	return []byte(s.Body)
}

// appEnvironment is what an app finds when it, or its %appinstall, runs.
func appEnvironment(name string) []byte {
	root, data := "/"+appsDir+"/"+name, "/"+appDataDir+"/"+name
	return fmt.Appendf(nil, `#!/bin/sh
export SCIF_DATA="/%s" SCIF_APPNAME="%s"
export SCIF_APPROOT="%s" SCIF_APPMETA="%[3]s/scif"
export SCIF_APPDATA="%s" SCIF_APPINPUT="%[4]s/input" SCIF_APPOUTPUT="%[4]s/output"
`, appDataDir, name, root, data)
}

// appName is what can stand in a path and in a script's quotes.
var appName = regexp.MustCompile(`^[\w.+-]+$`)

var notInVariable = regexp.MustCompile(`[^A-Za-z0-9_]`)

// appExports tell every app where this one is.
func appExports(app recipe.App) []byte {
	var b bytes.Buffer
	root, v := "/"+appsDir+"/"+app.Name, notInVariable.ReplaceAllString(app.Name, "_")
	fmt.Fprintf(&b, "export SCIF_APPROOT_%[1]s=\"%[2]s\" SCIF_APPMETA_%[1]s=\"%[2]s/scif\" SCIF_APPDATA_%[1]s=\"/%[3]s/%[4]s\"\n", v, root, appDataDir, app.Name)
	fmt.Fprintf(&b, "export SCIF_APPBIN_%[1]s=\"%[2]s/bin\" SCIF_APPLIB_%[1]s=\"%[2]s/lib\" SCIF_APPLABELS_%[1]s=\"%[2]s/scif/labels.json\"\n", v, root)
	if app.Env != nil {
		fmt.Fprintf(&b, "export SCIF_APPENV_%s=\"%s/scif/env/90-environment.sh\"\n", v, root)
	}
	if app.Run != nil {
		fmt.Fprintf(&b, "export SCIF_APPRUN_%s=\"%s/scif/runscript\"\n", v, root)
	}
	return b.Bytes()
}

// installApps is the script that follows %post: each app's %appinstall in its
// directory, in a subshell, so that one cannot disturb the next.
func installApps(apps []recipe.App) string {
	var b strings.Builder
	for _, app := range apps {
		if app.Install == nil {
			continue
		}
		root := "/" + appsDir + "/" + app.Name
		fmt.Fprintf(&b, "(\n. \"%s/scif/env/01-base.sh\"\ncd \"%[1]s\"\n%s\n)\n", root, strings.TrimRight(app.Install.Body, "\n"))
	}
	return b.String()
}
