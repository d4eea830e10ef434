package initramfs

import (
	"testing"
	"testing/fstest"
)

// FuzzModule checks that no module file makes the reader panic.
func FuzzModule(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Add([]byte("\x7fELF\x01\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x15"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := module{data: data}
		if err := m.parse(); err != nil && m.firmware != nil {
			t.Errorf("%q and %v", m.firmware, err)
		}
	})
}

// FuzzFirmwareName checks that a name from a module finds nothing outside the firmware directory.
func FuzzFirmwareName(f *testing.F) {
	fsys := fstest.MapFS{"etc/shadow": {Data: []byte("secret")}, "lib/firmware/a/b.bin": {Data: []byte("b")}, "lib/firmware/c": {Data: []byte("c")}}
	for _, name := range []string{"a/b.bin", "../../etc/shadow", "/etc/shadow", "a/../c", "*", "[", "a/*", "*/*/../../../etc/*", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		found, err := findIn(fsys, "lib/firmware", name)
		if err != nil {
			return
		}
		for _, file := range found {
			if file.name != "a/b.bin" && file.name != "c" {
				t.Errorf("%q finds %q", name, file.name)
			}
		}
	})
}
