package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/recipe"
)

func TestMain(m *testing.M) {
	Main()
	parentForKilling()
	os.Exit(m.Run())
}

// tinyTree makes a Tree from a static busybox. It also checks that the test leaves the mounts
// unchanged.
func tinyTree(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces and mounts")
	}
	box, err := exec.LookPath("busybox")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("busybox (package busybox-static) is missing")
		}
		t.Skip("needs busybox (package busybox-static)")
	}
	before := mountinfo(t)
	root := t.TempDir()
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp", "mnt"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o1777|os.ModeSticky))
	data, err := os.ReadFile(box)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755))
	for _, name := range []string{"sh", "cat", "id", "ls", "mkdir", "mount", "mv", "readlink", "rm", "setsid", "sleep", "stat", "touch", "env", "dd", "wc", "echo", "kill", "sort"} {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	t.Cleanup(func() {
		if diff := cmp.Diff(before, mountinfo(t)); diff != "" {
			t.Errorf("mounts changed (-before +after):\n%s", diff)
		}
	})
	return root
}

func mountinfo(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(data)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func script(body string, args ...string) recipe.Script { return recipe.Script{Args: args, Body: body} }

// post runs a %post and returns its standard output.
func post(t *testing.T, s Sandbox, body string, args ...string) (string, error) {
	t.Helper()
	var out, log bytes.Buffer
	s.Stdout, s.Stderr = &out, &log
	err := s.RunScript(t.Context(), script(body, args...), "%post")
	t.Logf("standard error:\n%s", log.String())
	return out.String(), err
}

func TestInside(t *testing.T) {
	root := tinyTree(t)
	must(t, os.WriteFile(filepath.Join(os.TempDir(), "netroot-host-tmp"), nil, 0o600))
	defer os.Remove(filepath.Join(os.TempDir(), "netroot-host-tmp"))
	leaky, err := syscall.Dup(0) // without close-on-exec
	must(t, err)
	defer syscall.Close(leaky)
	for _, tc := range []struct{ name, body, want string }{
		{"cwd", "pwd", "/\n"},
		{"umask", "umask", "0022\n"},
		{"user", "id -u", "0\n"},
		{"dev", "ls -A /dev", ".post.script\nfd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"},
		{"null", "echo gone > /dev/null; cat /dev/null; stat -c %a /dev/null", "666\n"},
		{"random", "dd if=/dev/urandom bs=16 count=1 2>/dev/null | wc -c", "16\n"},
		{"pty", "stat -c %t:%T /dev/pts/ptmx; readlink /dev/ptmx", "5:2\npts/ptmx\n"},
		{"stdin", "cat", ""},
		{"stdout link", "echo x > /dev/stdout", "x\n"},
		{"sys", "touch /sys/x 2>/dev/null || echo read-only; ls /sys/kernel | wc -l > /dev/null", "read-only\n"},
		{"tmp", "ls -A /tmp; stat -c %a /tmp; echo x > /tmp/x", "1777\n"},
		{"tmp vanishes", "ls -A /tmp", ""},
		{"processes", "ls /proc | while read p; do case $p in [0-9]*) echo $p ;; esac; done | wc -l | { read n; [ $n -lt 10 ] && echo few; }", "few\n"},
		{"looks like a chroot", "[ /proc/1/root/. -ef / ] || echo other", "other\n"},
		{"no host mounts", "cat /proc/mounts | while read a b c; do echo $b; done | { while read m; do case $m in /|/proc|/proc/*|/sys|/sys/*|/dev|/dev/pts|/dev/shm|/tmp) ;; *) echo $m ;; esac; done; }", ""},
		{"no descriptors", "for f in /proc/$$/fd/*; do echo -n ${f##*/},; done", "0,1,10,2,3,"}, // 3 is the directory, 10 the script
		{"root", `echo "$SINGULARITY_ROOTFS $APPTAINER_ROOTFS"`, "/ /\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := post(t, Sandbox{Root: root}, tc.body)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("printed %q, want %q", got, tc.want)
			}
		})
	}
	for _, dir := range []string{"dev", "tmp", "proc", "sys"} {
		if left, _ := os.ReadDir(filepath.Join(root, dir)); len(left) > 0 {
			t.Errorf("the tree's %s has got %v", dir, left)
		}
	}
}

func TestFailures(t *testing.T) {
	root := tinyTree(t)
	foreign := make([]byte, 64) // roughly an ELF header for AArch64
	copy(foreign, "\x7fELF\x02\x01\x01")
	foreign[16], foreign[18] = 2, 183
	must(t, os.WriteFile(filepath.Join(root, "bin/foreign"), foreign, 0o755))
	must(t, os.WriteFile(filepath.Join(root, "bin/lost"), []byte("#!/bin/none\n"), 0o755))
	empty := t.TempDir()
	bare := t.TempDir()
	for _, d := range []string{"dev", "proc", "sys", "tmp"} {
		must(t, os.Mkdir(filepath.Join(bare, d), 0o755))
	}
	for _, tc := range []struct {
		name string
		box  Sandbox
		body string
		args []string
		want string
	}{
		{"status", Sandbox{Root: root}, "exit 3", nil, "%post: exit status 3"},
		{"first failing command", Sandbox{Root: root}, "ls /none\nexit 0", nil, "%post: exit status 1"},
		{"signal", Sandbox{Root: root}, "kill -9 $$", nil, "%post: killed by SIGKILL"},
		{"unset variable", Sandbox{Root: root}, "echo $nope", []string{"-u"}, "%post: exit status 2"},
		{"other shell", Sandbox{Root: root}, "ls /none\nexit 0", []string{"-c", "/bin/sh"}, "%post: exit status 1"},
		{"no program", Sandbox{Root: root}, "", []string{"-c", "/usr/bin/python3"}, "%post: the tree has no /usr/bin/python3 to run the section"},
		{"foreign", Sandbox{Root: root}, "", []string{"-c", "/bin/foreign"}, "%post: /bin/foreign: exec format error: the file is for another architecture"},
		{"no loader", Sandbox{Root: root}, "", []string{"-c", "/bin/lost"}, "%post: /bin/lost: the dynamic loader or interpreter"},
		{"no shell", Sandbox{Root: bare}, "", nil, "%post: the tree has no /bin/sh to run the section: install a shell"},
		{"no mount points", Sandbox{Root: empty}, "", nil, "%post: the tree has no directory /proc: create it first"},
		{"no tree", Sandbox{Root: empty + "/none"}, "", nil, "no such file or directory"},
		{"host", Sandbox{Root: "/"}, "", nil, "the running system itself"},
		{"no directory", Sandbox{Root: root, Dir: "/none"}, "", nil, "working directory /none is not a directory"},
		{"bind target", Sandbox{Root: root, Binds: []Bind{{Source: empty, Target: "/none"}}}, "", nil, "the tree has no /none"},
		{"bind source", Sandbox{Root: root, Binds: []Bind{{Source: empty + "/x", Target: "/mnt"}}}, "", nil, "bind onto /mnt: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := post(t, tc.box, tc.body, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want one that says %q", err, tc.want)
			}
		})
	}
	_, err := post(t, Sandbox{Root: root}, "exit 7")
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Code != 7 || exit.Name != "%post" {
		t.Errorf("got %#v, want an ExitError with status 7", err)
	}
	if err := (&Sandbox{Root: root}).Run(t.Context(), []string{"nosuch"}); err == nil || !strings.Contains(err.Error(), "nosuch: the tree has no program nosuch in PATH=/usr/local/sbin:") {
		t.Errorf("error %v", err)
	}
}

func TestRun(t *testing.T) {
	root := tinyTree(t)
	var out bytes.Buffer
	s := Sandbox{Root: root, Dir: "/etc", Umask: 0o027, Env: []string{"A=b", "PATH=/bin"}, Stdin: strings.NewReader("typed\n"), Stdout: &out}
	must(t, s.Run(t.Context(), []string{"sh", "-c", "cat; pwd; umask; env | sort; touch file"}))
	if want := "typed\n/etc\n0027\nA=b\nPATH=/bin\nPWD=/etc\nSHLVL=1\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	fi, err := os.Stat(filepath.Join(root, "etc/file"))
	if err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("the file: %v %v", fi.Mode(), err)
	}
}

// TestNoSync calls fsync on /dev/null, which does not support it. It succeeds only because of the
// filter.
func TestNoSync(t *testing.T) {
	root := tinyTree(t)
	const ask = "dd if=/dev/zero of=/dev/null count=1 conv=fsync"
	if _, err := post(t, Sandbox{Root: root}, ask); err == nil {
		t.Error("the kernel has synced /dev/null")
	}
	if _, err := post(t, Sandbox{Root: root, NoSync: true}, ask+"\n"+ask); err != nil {
		t.Error(err)
	}
	var log bytes.Buffer
	h := Host{NoSync: true, Stderr: &log}
	if err := h.Run(t.Context(), []string{"busybox", "sh", "-c", "busybox " + ask}); err != nil {
		t.Errorf("on the host: %v: %s", err, log.String())
	}
}

func TestLongScript(t *testing.T) {
	root := tinyTree(t)
	got, err := post(t, Sandbox{Root: root}, strings.Repeat("# "+strings.Repeat("x", 70)+"\n", 5000)+"echo end")
	if err != nil || got != "end\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestBinds(t *testing.T) {
	root, host := tinyTree(t), t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "file"), []byte("x"), 0o644))
	must(t, os.Symlink(host, filepath.Join(root, "escape")))
	must(t, os.Mkdir(filepath.Join(host, "dir"), 0o755))

	_, err := post(t, Sandbox{Root: root, Binds: []Bind{{Source: host, Target: "/mnt"}}}, "cat /mnt/file; touch /mnt/made")
	if _, statErr := os.Stat(filepath.Join(host, "made")); err != nil || statErr != nil {
		t.Errorf("writable bind: %v, %v", err, statErr)
	}
	_, err = post(t, Sandbox{Root: root, Binds: []Bind{{Source: host, Target: "/mnt", ReadOnly: true}}}, "cat /mnt/file; touch /mnt/made2")
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Code != 1 {
		t.Errorf("read-only bind: %v", err)
	}
	_, err = post(t, Sandbox{Root: root, Binds: []Bind{{Source: host, Target: "/escape/dir"}}}, "")
	if err == nil || !strings.Contains(err.Error(), "the tree has no /escape/dir") {
		t.Errorf("a symbolic link led out of the tree: %v", err)
	}
}

// A section cannot change the kernel of the host, and reads nothing of the host's memory.
func TestProtectedProc(t *testing.T) {
	s := Sandbox{Root: tinyTree(t)}
	const setting = "/proc/sys/kernel/printk_ratelimit_burst"
	before, err := os.ReadFile(setting)
	must(t, err)
	// The value that is there already: a sandbox that does not protect it changes nothing.
	out, err := post(t, s, "cat "+setting+"\ncat "+setting+" > "+setting)
	if err == nil || out != string(before) {
		t.Errorf("%s can be written: %v, %q", setting, err, out)
	}
	mounts, err := post(t, s, "cat /proc/self/mounts")
	must(t, err)
	for _, p := range []string{"/proc/sys", "/proc/irq", "/proc/fs", "/proc/bus", "/proc/sysrq-trigger", "/sys"} {
		if _, err := os.Stat(p); err == nil && !strings.Contains(mounts, " "+p+" proc ro,") && !strings.Contains(mounts, " "+p+" sysfs ro,") {
			t.Errorf("%s is not read-only:\n%s", p, mounts)
		}
	}
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"} {
		if _, err := os.Stat(p); err != nil {
			continue
		}
		if out, err := post(t, s, "cat "+p+" | wc -c"); err != nil || strings.TrimSpace(out) != "0" {
			t.Errorf("%s holds %s bytes: %v", p, strings.TrimSpace(out), err)
		}
	}
}

func TestParseBind(t *testing.T) {
	for text, want := range map[string]Bind{
		"/a:/b":    {Source: "/a", Target: "/b"},
		"a:/b:ro":  {Source: "a", Target: "/b", ReadOnly: true},
		"/a:/b:rw": {Source: "/a", Target: "/b"},
		"/a":       {Source: "/a", Target: "/a"},
		"a":        {}, "": {}, "/a:b": {}, ":/b": {}, "/a:/b:r": {}, "/a:/b:ro:": {}, "/a:": {},
	} {
		if got, err := ParseBind(text); got != want || (err != nil) != (want == Bind{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestThrough(t *testing.T) {
	root := tinyTree(t)
	s := Sandbox{Root: root, Name: "%test", Through: []string{"/bin/sh", "-c", `A=1; export A; exec "$@"`, "x"}}
	if got, err := post(t, s, "echo $A $1", "-c", "/bin/sh"); err != nil || got != "1\n" {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Run(t.Context(), []string{"sh", "-c", "exit 4"}); err == nil || err.Error() != "%test: exit status 4" {
		t.Errorf("error %v", err)
	}
	if len(s.Through) != 4 {
		t.Errorf("it grew: %q", s.Through)
	}
}

func TestReadOnly(t *testing.T) {
	root := tinyTree(t)
	must(t, os.WriteFile(filepath.Join(root, "var/tmp/mine"), nil, 0o644))
	// The host's file is staged in its place.
	must(t, os.WriteFile(filepath.Join(root, "etc/hosts"), nil, 0o644))
	got, err := post(t, Sandbox{Root: root, ReadOnly: true}, `
		touch /x 2>/dev/null || echo no
		touch /etc/hosts 2>/dev/null || echo no
		touch /tmp/x /var/tmp/x /run/x /dev/shm/x && ls /var/tmp`)
	if err != nil || got != "no\nno\nx\n" {
		t.Errorf("%q, %v", got, err)
	}
	if text, err := os.ReadFile(filepath.Join(root, "etc/hosts")); err != nil || len(text) > 0 {
		t.Errorf("/etc/hosts was not put back: %q, %v", text, err)
	}
	left, _ := filepath.Glob(filepath.Join(root, "var/tmp/*"))
	ran, _ := filepath.Glob(filepath.Join(root, "run/*"))
	if len(left) != 1 || filepath.Base(left[0]) != "mine" || len(ran) > 0 {
		t.Errorf("/var/tmp has %v, /run %v", left, ran)
	}
}

func TestDaemonsEnd(t *testing.T) {
	root := tinyTree(t)
	began := time.Now()
	if _, err := post(t, Sandbox{Root: root}, "setsid sleep 600.25 & sleep 601.25 & echo started"); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > time.Minute {
		t.Errorf("it waited %v for the daemons", d)
	}
	for _, arg := range []string{"600.25", "601.25"} {
		if pids := processesWith(arg); len(pids) > 0 {
			t.Errorf("sleep %s is left: %v", arg, pids)
		}
	}
}

// announce is a writer that closes a channel when it receives the first bytes.
type announce struct{ ready chan struct{} }

func (a *announce) Write(p []byte) (int, error) {
	select {
	case <-a.ready:
	default:
		close(a.ready)
	}
	return len(p), nil
}

func TestCancel(t *testing.T) {
	root := tinyTree(t)
	for _, tc := range []struct {
		name, body string
		grace      time.Duration
		tidied     bool
	}{
		{"ends by itself", "trap 'touch /root/tidied; exit 1' TERM; echo; while :; do sleep 602.25 & wait; done", time.Minute, true},
		{"must be killed", "trap '' TERM; echo; while :; do sleep 602.25; done", 50 * time.Millisecond, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &announce{make(chan struct{})}
			go func() { <-out.ready; cancel() }()
			s := Sandbox{Root: root, Stdout: out, Grace: tc.grace}
			err := s.RunScript(ctx, script(tc.body), "%post")
			if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "%post: ") {
				t.Errorf("error %v", err)
			}
			if pids := processesWith("602.25"); len(pids) > 0 {
				t.Errorf("processes are left: %v", pids)
			}
			if err := os.Remove(filepath.Join(root, "root/tidied")); (err == nil) != tc.tidied {
				t.Errorf("its trap: %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&Sandbox{Root: root}).Run(ctx, []string{"sh"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

func TestNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may run commands")
	}
	err := (&Sandbox{Root: t.TempDir()}).Run(t.Context(), []string{"sh"})
	if err == nil || !strings.Contains(err.Error(), "requires root") {
		t.Errorf("error %v", err)
	}
}

// processesWith returns the pids of the processes that have the argument arg.
func processesWith(arg string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cmdline, _ := os.ReadFile(d + "/cmdline")
		if strings.Contains(string(cmdline), "\x00"+arg+"\x00") {
			var st syscall.Stat_t
			if syscall.Stat(d, &st) == nil {
				pids = append(pids, atoi(filepath.Base(d)))
			}
		}
	}
	return pids
}

func atoi(s string) (n int) {
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}
