package network

import (
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func exampleConfig() *Config {
	return &Config{
		Link: "eth0", Index: 2, MAC: "52:54:00:12:34:56",
		Address: netip.MustParsePrefix("10.1.2.3/24"),
		Routes: []Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.2.1")},
			{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("172.16.0.1")},
			{Dst: netip.MustParsePrefix("169.254.0.0/16"), Metric: 1024},
		},
		DNS:      []netip.Addr{netip.MustParseAddr("10.1.2.53"), netip.MustParseAddr("10.1.2.54")},
		Search:   []string{"cluster.example"},
		Hostname: "n7",
		MTU:      9000,
	}
}

// TestServiceFiles holds what each network service is told against a golden
// file that a reader can check with the services' manual pages.
func TestServiceFiles(t *testing.T) {
	files := ServiceFiles(exampleConfig())
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(files)) {
		b.WriteString("-- " + path + " --\n" + files[path])
	}
	golden := filepath.Join("testdata", "services.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Error(d)
	}
}
