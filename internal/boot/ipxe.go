package boot

import (
	"fmt"
	"strconv"
	"strings"
)

// retryPause is how long a machine waits before it asks again, in seconds.
const retryPause = 5

// IPXE renders the plan as an iPXE script.
//
// A machine never just stops: whatever fails is named on its console, and the script is fetched
// again, for it may say something else by then. Where the server does not answer even that, the
// script starts over.
func (p Plan) IPXE() string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("#!ipxe")
	line(":start")
	line("imgfree")
	line("echo netroot: booting %s from %s", p.Image, p.Machine.Server)
	line("kernel --name %s %s %s || goto failed", p.Kernel.Name, p.Kernel.URL, strings.Join(p.arguments(), " "))
	for _, f := range p.Initrds {
		line("initrd --name %s %s || goto failed", f.Name, f.URL)
	}
	line("boot || goto failed")
	line(":failed")
	writeRetry(&b, "could not boot "+p.Image+", the reason is above", p.Script, retryPause)
	return b.String()
}

// arguments are the kernel's and those that iPXE is to add.
//
// There is an initrd= for each initial RAM file system: a kernel that UEFI starts asks for them by
// these names (drivers/firmware/efi/libstub/file.c), unless both iPXE and kernel know the newer
// way, and then nobody minds them. On BIOS iPXE hands all over, one behind the other, and the
// kernel ignores initrd=.
func (p Plan) arguments() []string {
	var args []string
	for _, f := range p.Initrds {
		args = append(args, "initrd="+f.Name)
	}
	args = append(args, p.Cmdline...)
	if p.Machine.MAC == "" {
		// iPXE knows by which interface it came; netX is the one it opened last.
		args = append(args, "BOOTIF=01-${netX/mac:hexhyp}")
	}
	return args
}

// Refusal is the iPXE script for a machine that cannot have a plan: it shows why and asks again after
// a pause. The URL is where, and counts in its query how often it has been refused in a row before;
// random, from 0 to 1, spreads machines that are refused together.
func Refusal(reason, url string, refused int, random float64) string {
	var b strings.Builder
	b.WriteString("#!ipxe\n:start\nimgfree\n")
	writeRetry(&b, reason, withQuery(url, fmt.Sprintf("%s=%d", refusedKey, refused+1)), refusalPause(refused, random))
	return b.String()
}

// longestPause is the longest pause of a machine that is refused, in seconds, before it is spread.
const longestPause = 60

// refusalPause is 5, 10, 20, 40 and then 60 seconds, each spread by a quarter in both directions.
func refusalPause(refused int, random float64) int {
	pause := min(retryPause<<min(max(refused, 0), 4), longestPause)
	return int(float64(pause)*(0.75+0.5*random) + 0.5)
}

// refusedKey is the part of a query that counts refusals.
const refusedKey = "refused"

// RefusedBefore is how often a machine has been refused before it sent this query.
func RefusedBefore(query string) int {
	for pair := range strings.SplitSeq(query, "&") {
		if value, ok := strings.CutPrefix(pair, refusedKey+"="); ok {
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return 0
			}
			return int(n)
		}
	}
	return 0
}

// Ask is the iPXE script that fetches another one from the URL, with what iPXE knows of the
// machine. It is the answer to an iPXE that has not said on what machine it runs.
func Ask(url string) string {
	return fmt.Sprintf("#!ipxe\n:start\nchain --replace %s ||\n"+
		"echo netroot: no boot script came from %s, trying again in %d seconds\n"+
		"sleep %d ||\ngoto start\n", withFacts(url), url, retryPause, retryPause)
}

func writeRetry(b *strings.Builder, reason, url string, pause int) {
	fmt.Fprintf(b, "echo netroot: %s\n", echoText(reason))
	fmt.Fprintf(b, "echo netroot: trying again in %d seconds\n", pause)
	fmt.Fprintf(b, "sleep %d ||\n", pause) // Ctrl-C ends the pause early
	fmt.Fprintf(b, "chain --replace %s || goto start\n", withFacts(url))
}

// echoText makes any text one argument list of iPXE's echo that prints it, less what iPXE would
// take for its own.
func echoText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, strings.ReplaceAll(s, "${", "$ {"))
	words := strings.Fields(s)
	for i, w := range words {
		if w == "||" || w == "&&" || w == ";" || w[0] == '#' || w[0] == '-' {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}

// TextColumn is the column in which the values of Text begin.
const TextColumn = 11

// Text renders the plan for people.
func (p Plan) Text() string {
	var b strings.Builder
	line := func(name, format string, a ...any) {
		fmt.Fprintf(&b, "%-*s"+format+"\n", append([]any{TextColumn, name}, a...)...)
	}
	line("image", "%s", p.Image)
	line("server", "%s", p.Machine.Server)
	for _, fact := range [][2]string{{"arch", p.Machine.Arch}, {"firmware", string(p.Machine.Firmware)}, {"mac", p.Machine.MAC}, {"uuid", p.Machine.UUID}, {"serial", p.Machine.Serial}, {"asset", p.Machine.Asset}} {
		if fact[1] != "" {
			line(fact[0], "%s", fact[1])
		}
	}
	if p.Flavour != "" {
		line("initramfs", "%s", p.Flavour)
	}
	line("kernel", "%s (%.1f MiB)", p.Kernel.URL, mib(p.Kernel.Size))
	for _, f := range p.Initrds {
		line("initrd", "%s %s (%.1f MiB)", f.Name, f.URL, mib(f.Size))
	}
	for i, a := range p.Cmdline {
		name := ""
		if i == 0 {
			name = "cmdline"
		}
		line(name, "%s", a)
	}
	return b.String()
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
