package kernel

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Config is the configuration with which a kernel was built: option names without "CONFIG_" and
// their values as written, "y", "m", a number or the text of a string. It does not contain options
// that are not set.
type Config map[string]string

// Enabled reports whether the option, for example "SQUASHFS_ZSTD", is built in or a module.
func (c Config) Enabled(name string) bool { return c[name] == "y" || c[name] == "m" }

// ParseConfig parses a kernel's .config (Documentation/kbuild/kconfig.rst). The error names the
// first line that does not have that form.
func ParseConfig(r io.Reader) (Config, error) {
	config := Config{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // lines such as CONFIG_SYSTEM_TRUSTED_KEYS can be long
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, isOption := strings.CutPrefix(name, "CONFIG_")
		if !ok || !isOption || name == "" {
			return nil, fmt.Errorf("line %d is not a kernel option: %.40q", n, line)
		}
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		config[name] = value
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return config, nil
}
