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

// The apps of a recipe follow the Scientific Filesystem (sci-f.github.io/specification). Each app
// has a directory below /scif/apps, which holds its programs, and its metadata in the subdirectory
// "scif". The app reads and writes its data below /scif/data.

const (
	appsDir     = "scif/apps"
	appDataDir  = "scif/data"
	appsBaseEnv = metaDir + "/env/94-appsbase.sh"
)

// makeApps makes the directories and files of a stage's apps. It does everything except
// %appinstall. The function copy copies the files that one line of %appfiles names.
func makeApps(root *os.Root, apps []recipe.App, copy func(recipe.FileEntry) error) error {
	known, err := root.ReadFile(appsBaseEnv)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, app := range apps {
		if !appName.MatchString(app.Name) {
			return fmt.Errorf("line %d: %q cannot name an app: use only letters, digits and the characters ._+-", app.Line, app.Name)
		}
		if err := makeApp(root, app); err != nil {
			return fmt.Errorf("app %s: %w", app.Name, err)
		}
		for _, e := range app.Files {
			if e.Dst == "" {
				e.Dst = e.Src
			}
			// The names are joined as text, because a slash at the end means a
			// directory.
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

// body returns the text of a section, or nil if the section is missing.
func body(s *recipe.Script) []byte {
	if s == nil {
		return nil
	}
	return []byte(s.Body)
}

// appEnvironment returns the script that sets the environment of an app and of its %appinstall.
func appEnvironment(name string) []byte {
	root, data := "/"+appsDir+"/"+name, "/"+appDataDir+"/"+name
	return fmt.Appendf(nil, `#!/bin/sh
export SCIF_DATA="/%s" SCIF_APPNAME="%s"
export SCIF_APPROOT="%s" SCIF_APPMETA="%[3]s/scif"
export SCIF_APPDATA="%s" SCIF_APPINPUT="%[4]s/input" SCIF_APPOUTPUT="%[4]s/output"
`, appDataDir, name, root, data)
}

// appName matches the names that are safe in a path and in a quoted string of a shell script.
var appName = regexp.MustCompile(`^[\w.+-]+$`)

var notInVariable = regexp.MustCompile(`[^A-Za-z0-9_]`)

// appExports returns the variables that tell every app where this app is.
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

// installApps returns the script that follows %post. It runs each app's %appinstall in the app's
// directory and in a subshell, so that one script cannot disturb the next.
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
