package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// call is a system call, or several with one descriptor, that is made in two directories.
type call struct {
	text  string
	paths []string // paths that it may change, and their parents; described afterwards
	time  bool     // also compare the paths' modification times
	or    string   // other errors that are also right, as "WANT>GOT WANT>GOT"
	do    func() string
}

// names makes calls as several users in the directory under test and in the reference.
type names struct {
	rng     *rand.Rand
	journal *journal
	side    [2]side  // directory under test, and reference
	known   []string // existing paths
	devices bool     // both sides support devices
	links   bool     // both sides count the subdirectories of a directory as links
	count   map[string]int
}

// side is one of the two directories.
type side struct {
	path   string   // everything happens in top, inside of it
	actors []*actor // one for each user; the first may see everything
}

// top is the directory in which actors work. It is deep, because links may lead to a parent.
const top = "x/y/top"

// old is a time that the clock does not return: a file that has it was not changed.
var old = unix.Timespec{Sec: 981173106, Nsec: 7}

func runNames(ctx context.Context, o options, dir, ref string) (summary string, err error) {
	n := &names{
		rng: rand.New(rand.NewPCG(o.seed, 0)), journal: &journal{log: o.log}, count: map[string]int{},
	}
	for i, d := range []string{dir, ref} {
		work, end, err := workplace(d, "names")
		if err != nil {
			return "", err
		}
		defer func() { end(&err) }()
		if n.side[i], err = newSide(work); err != nil {
			return "", err
		}
		defer n.side[i].close()
	}
	if err := n.survey(); err != nil {
		return "", err
	}
	if err := n.run(ctx, o); err != nil {
		return "", n.journal.failure(err)
	}
	if !n.devices {
		summary = ", without devices"
	}
	return fmt.Sprintf("%d calls of %d users, %d of them successful, %d trees compared%s",
		n.journal.n, len(n.side[0].actors), n.count["ok"], n.count["trees"], summary), nil
}

// newSide makes the directory for the calls, and its actors.
func newSide(work string) (side, error) {
	if err := os.Chmod(work, 0o755); err != nil {
		return side{}, err
	}
	s := side{path: work}
	if err := os.MkdirAll(filepath.Join(work, top), 0o755); err != nil {
		return s, err
	}
	if err := os.Chmod(filepath.Join(work, top), 0o777); err != nil {
		return s, err
	}
	for _, u := range users() {
		a, err := newActor(u, work, top)
		if err != nil {
			return s, err
		}
		s.actors = append(s.actors, a)
	}
	return s, nil
}

func (s side) close() {
	for _, a := range s.actors {
		close(a.todo)
	}
}

// survey finds out in which features the two file systems can be compared.
func (n *names) survey() error {
	n.devices, n.links = confined(), true
	for _, s := range n.side {
		var fs unix.Statfs_t
		if err := unix.Statfs(s.path, &fs); err != nil {
			return fmt.Errorf("statfs of %s: %w", s.path, err)
		}
		if fs.Flags&unix.ST_NODEV != 0 {
			n.devices = false
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(s.path, "x"), &st); err != nil {
			return err
		}
		if st.Nlink != 3 {
			n.links = false
		}
	}
	return nil
}

func (n *names) run(ctx context.Context, o options) error {
	all, sum := kinds(), 0
	for _, k := range all {
		sum += k.weight
	}
	for i := range o.ops {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if o.disturb != nil {
			o.disturb(i, filepath.Join(n.side[0].path, top))
		}
		pick := n.rng.IntN(sum)
		for _, k := range all {
			if pick -= k.weight; pick < 0 {
				if err := n.both(n.chooseCaller(k.make(n))); err != nil {
					return err
				}
				break
			}
		}
		if i%250 == 249 || i == o.ops-1 {
			if err := n.compareTrees(); err != nil {
				return err
			}
		}
	}
	return nil
}

// chooseCaller chooses the user who makes the call, from its number: any user, and often the owner
// of the file.
func (n *names) chooseCaller(c call) (call, int) {
	who := n.rng.IntN(len(n.side[1].actors))
	if len(c.paths) == 0 || n.rng.IntN(3) == 0 {
		return c, who
	}
	var owner int
	n.judge().run(func() string {
		var st unix.Stat_t
		for _, p := range withParents(c.paths[:1]) {
			if unix.Lstat(p, &st) == nil {
				break
			}
		}
		owner = int(st.Uid)
		return ""
	})
	for i, a := range n.side[1].actors {
		if a.user.uid == owner {
			return c, i
		}
	}
	return c, who
}

// judge returns the actor who may see everything in the reference.
func (n *names) judge() *actor { return n.side[1].actors[0] }

// both makes the call on both sides and compares the results.
func (n *names) both(c call, who int) error {
	user := n.side[1].actors[who].user
	n.journal.note("%s: %s", user, c.text)
	paths := withParents(c.paths)
	c.time = c.time && n.rng.IntN(3) == 0
	var outcome [2]string
	for i, s := range n.side {
		if c.time {
			s.actors[0].run(func() string { return setOld(paths) })
		}
		outcome[i] = s.actors[who].run(c.do) + s.actors[0].run(func() string { return n.look(paths, c.time) })
	}
	if strings.HasPrefix(outcome[1], "ok") {
		n.count["ok"]++
	}
	n.judge().run(func() string { return n.learn(paths) })
	got, want := outcome[0], outcome[1]
	if got == want {
		return nil
	}
	gotErr, gotAfter, _ := strings.Cut(got, ";")
	wantErr, wantAfter, _ := strings.Cut(want, ";")
	if gotAfter == wantAfter && slices.Contains(strings.Fields(c.or), wantErr+">"+gotErr) {
		return nil
	}
	return fmt.Errorf("%s: %s:\n  gave  %s\n  want  %s", user, c.text, got, want)
}

// withParents adds the parent directories of the paths.
func withParents(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, p)
		if dir := filepath.Dir(strings.TrimRight(p, "/")); dir != p {
			out = append(out, dir)
		}
	}
	return out
}

func setOld(paths []string) string {
	for _, p := range paths {
		unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return ""
}

// look describes the paths.
func (n *names) look(paths []string, times bool) string {
	var b strings.Builder
	for _, p := range paths {
		var st unix.Stat_t
		err := unix.Lstat(p, &st)
		fmt.Fprintf(&b, "; %s %s", short(p), errno(err))
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, " %s", describe(&st, n.links))
		if times && st.Mtim == old && !isFifo(&st) {
			b.WriteString(" time unchanged")
		}
	}
	return b.String()
}

// describe describes what must be the same on both sides. It includes the links of directories if
// links is set.
func describe(st *unix.Stat_t, links bool) string {
	text := fmt.Sprintf("%#o %d:%d", st.Mode, st.Uid, st.Gid)
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !dir || links {
		text += fmt.Sprintf(" %d links", st.Nlink)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		text += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFREG, unix.S_IFLNK:
		text += fmt.Sprintf(" %d bytes", st.Size)
	}
	return text
}

// isFifo reports whether a file's times may differ: NFS does not change them when data is written
// into a fifo.
func isFifo(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFIFO }

// when returns a modification time in a form that can be compared: the present differs between the
// two sides.
func when(st *unix.Stat_t) string {
	if isFifo(st) {
		return "present"
	}
	return whenAt(st.Mtim)
}

func whenAt(t unix.Timespec) string {
	if d := time.Since(time.Unix(t.Unix())); d.Abs() < 24*time.Hour {
		return "now"
	}
	return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec)
}

// short returns a shortened path for messages.
func short(p string) string {
	q := fmt.Sprintf("%q", p)
	if len(q) > 60 {
		return fmt.Sprintf("%s...%s(%d bytes)", q[:20], q[len(q)-20:], len(p))
	}
	return q
}

// words returns the names of files. They are few, so that calls concern the same files.
func words() []string {
	return []string{"a", "b", "c", "d", "e", "f", "a", "b", "c", "ü\xff\xfe", "new\nline ", `back\slash*`, strings.Repeat("long", 63) + "255"}
}

// path returns an existing path, one below or beside it, or any.
func (n *names) path() string {
	all := words()
	word := all[n.rng.IntN(len(all))]
	switch n.rng.IntN(50) {
	case 0:
		word += "/"
	case 1:
		word += "/."
	case 2:
		word = strings.Repeat("x", 256)
	case 3:
		word = "./" + word
	}
	choice := n.rng.IntN(10)
	if len(n.known) == 0 || choice == 0 {
		return word
	}
	p := n.known[n.rng.IntN(len(n.known))]
	switch {
	case choice < 3:
		return filepath.Join(filepath.Dir(p), word)
	case choice < 5 && strings.Count(p, "/") < 3:
		return p + "/" + word
	}
	return p
}

// fresh returns a path that often does not exist.
func (n *names) fresh() string {
	p := n.path()
	for range 4 {
		if !slices.Contains(n.known, p) {
			break
		}
		p = n.path()
	}
	return p
}

// learn records which of the described paths exist. None leads upwards.
func (n *names) learn(paths []string) string {
	for _, p := range paths {
		var st unix.Stat_t
		is := p != "." && !strings.Contains(p, "..") && unix.Lstat(p, &st) == nil
		i := slices.Index(n.known, p)
		switch {
		case is && i < 0:
			n.known = append(n.known, p)
		case !is && i >= 0:
			n.known = slices.Delete(n.known, i, i+1)
		}
	}
	return ""
}

// mode returns a mode for a file, common or arbitrary.
func (n *names) mode() uint32 {
	usual := []uint32{0o755, 0o644, 0o777, 0o666, 0o700, 0o600, 0o4755, 0o2755, 0o2775, 0o1777, 0o6711, 0o400, 0o200, 0o000, 0o711, 0o070, 0o007}
	switch n.rng.IntN(8) {
	case 0, 1:
		return n.rng.Uint32N(0o10000)
	case 2, 3, 4:
		return n.rng.Uint32N(0o10)<<9 | 0o777
	}
	return usual[n.rng.IntN(len(usual))]
}

// id returns the id of a user or group, or -1, which means no change.
func (n *names) id() int {
	ids := []int{-1, 0, 1000, 1001, 1002, 1003, 2000, 2001, 3005, 3015, 65534, 4000000000}
	return ids[n.rng.IntN(len(ids))]
}
