package bootstrap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A SIF (Singularity Image Format, version 1; documented in apptainer/sif, pkg/sif/sif.go) is a
// header, a table of descriptors and the objects they describe. Numbers are little-endian and
// nothing is padded:
//
//	header       0 launch[32]  32 magic[10]  42 version[3]  45 arch[3]  48 id[16]  64 created
//	             72 modified  80 free descriptors  88 all descriptors  96 offset of descriptors
//	             104 length of descriptors  112 offset of data  120 length of data
//	descriptor   0 type int32  4 used byte  5 id  9 group  13 link  17 offset int64
//	             25 size int64  33 padded size  41 four times int64  73 name[128]  201 extra[384]
//	extra        of a partition: 0 file system int32  4 kind int32  8 arch[3]
const (
	sifMagic          = "SIF_MAGIC\x00"
	sifHeaderSize     = 128
	sifDescriptorSize = 585
	sifPartition      = 0x4004 // object types
	sifOCIRoot        = 0x4009
	sifSystem         = 1 // partition types
	sifPrimary        = 2
)

// sifArchs are the SIF codes of the architectures that netroot supports.
var sifArchs = map[string]string{"386": "01", "amd64": "02", "arm": "03", "arm64": "04", "ppc64le": "06", "s390x": "11", "riscv64": "12"}

func isSIF(head []byte) bool {
	return len(head) >= 42 && string(head[32:42]) == sifMagic
}

// sifObject is the description of a partition.
type sifObject struct {
	kind         uint32
	fs           uint32
	arch         string
	offset, size int64
}

// findSIFRoot finds the primary system partition of a SIF. size is the size of the file in bytes.
func findSIFRoot(r io.ReaderAt, size int64) (packedRoot, error) {
	partitions, err := sifPartitions(r, size)
	if err != nil {
		return packedRoot{}, fmt.Errorf("damaged SIF: %w", err)
	}
	i := slices.IndexFunc(partitions, func(o sifObject) bool { return o.kind == sifPrimary })
	if i < 0 {
		i = slices.IndexFunc(partitions, func(o sifObject) bool { return o.kind == sifSystem })
	}
	if i < 0 {
		return packedRoot{}, errors.New("SIF without a root file system")
	}
	o := partitions[i]
	if want := sifArchs[goarch]; want != "" && o.arch != want && o.arch != "00" {
		for name, code := range sifArchs {
			if code == o.arch {
				return packedRoot{}, fmt.Errorf("SIF for %s, but this host makes trees for %s", name, goarch)
			}
		}
	}
	want := formatSquashfs
	switch o.fs {
	case 1:
	case 2:
		want = formatExt
	case 5, 6:
		return packedRoot{}, errors.New("encrypted SIF, which netroot cannot open: " +
			"unpack it with `apptainer build --sandbox DIR FILE` and its key, and use DIR")
	default:
		return packedRoot{}, fmt.Errorf("SIF whose root has the unknown type %d", o.fs)
	}
	format, err := sniff(r, o.offset)
	if err != nil {
		return packedRoot{}, err
	}
	if format != want {
		return packedRoot{}, fmt.Errorf("damaged SIF: there is no %[2]s at byte %[1]d", o.offset, want)
	}
	return packedRoot{format, o.offset, o.size}, nil
}

// sifPartitions reads the table of descriptors.
func sifPartitions(r io.ReaderAt, size int64) ([]sifObject, error) {
	header := make([]byte, sifHeaderSize)
	if size < sifHeaderSize {
		return nil, fmt.Errorf("%d bytes are fewer than a header has", size)
	}
	if _, err := r.ReadAt(header, 0); err != nil {
		return nil, err
	}
	if v := string(bytes.TrimRight(header[42:45], "\x00")); v != "01" {
		return nil, fmt.Errorf("version %q is not supported, only version 01", v)
	}
	count, at := int64(binary.LittleEndian.Uint64(header[88:])), int64(binary.LittleEndian.Uint64(header[96:]))
	if at < sifHeaderSize || at > size || count < 0 || count > (size-at)/sifDescriptorSize {
		return nil, fmt.Errorf("%d descriptors from byte %d on do not fit into its %d bytes", count, at, size)
	}
	var found []sifObject
	table := io.NewSectionReader(r, at, count*sifDescriptorSize)
	d := make([]byte, sifDescriptorSize)
	for range count {
		if _, err := io.ReadFull(table, d); err != nil {
			return nil, err
		}
		if d[4] == 0 {
			continue
		}
		switch kind := binary.LittleEndian.Uint32(d); kind {
		case sifOCIRoot:
			return nil, errors.New("OCI-SIF, which contains layers: use the image's registry with `Bootstrap: docker`")
		case sifPartition:
			o := sifObject{
				fs: binary.LittleEndian.Uint32(d[201:]), kind: binary.LittleEndian.Uint32(d[205:]),
				arch:   string(bytes.TrimRight(d[209:212], "\x00")),
				offset: int64(binary.LittleEndian.Uint64(d[17:])), size: int64(binary.LittleEndian.Uint64(d[25:])),
			}
			if o.offset < 0 || o.size < 0 || o.offset > size || o.size > size-o.offset {
				return nil, fmt.Errorf("a partition of %d bytes from byte %d on does not fit into its %d bytes: the file is truncated", o.size, o.offset, size)
			}
			found = append(found, o)
		}
	}
	return found, nil
}
