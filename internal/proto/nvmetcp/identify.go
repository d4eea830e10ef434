package nvmetcp

import "bytes"

// What Identify can be asked (Base, "Identify CNS Values").
const (
	cnsNamespace     = 0x00
	cnsController    = 0x01
	cnsActive        = 0x02
	cnsDescriptors   = 0x03
	cnsNVMNamespace  = 0x05
	cnsNVMController = 0x06
	cnsNVMActive     = 0x07
	cnsIndependent   = 0x08
	cnsCommandSets   = 0x1c
)

// What the answers say.
const (
	firmware          = "netroot" // its revision
	keepAliveUnit     = 10        // of KATO, in 100 ms
	maxTransferPower  = 8         // of 4 KiB: maxTransfer
	anaTransitionTime = 10        // s; it never takes any
	anaGroup          = 1

	cmicPorts, cmicControllers, cmicANA = 1 << 0, 1 << 1, 1 << 3

	oaesANA         = 1 << 11
	ctrattHostID    = 1 << 0 // of 128 bits
	ctrattTBKAS     = 1 << 6 // any command keeps alive
	typeIO          = 1
	typeDiscovery   = 2
	frmwOneSlot     = 1<<1 | 1<<0 // and read only
	lpaEffects      = 1 << 1
	lpaExtended     = 1 << 2 // offsets, and long lengths
	anaOptimized    = 1 << 0 // in ANACAP, and the state of that name
	anaFixedGroup   = 1 << 6
	sglSupported    = 1 << 0
	sglLongerOK     = 1 << 18 // than the data
	sglByOffset     = 1 << 20
	nsfeatUniqueIDs = 1 << 3
	nmicShared      = 1 << 0
	nsattrProtected = 1 << 0
	nstatReady      = 1 << 0
	descriptorNGUID = 2
	descriptorUUID  = 3
	descriptorCSI   = 4
)

// identify makes what a host asks to know: always 4 KiB, mostly of zeroes. The offsets are those of
// the specification's figures "Identify Controller Data Structure" and its like; what has none is
// not said.
func (k *controller) identify(cmd *command) (padded, status) {
	cns, nsid, commandSet := uint8(cmd.dword(10)), cmd.nsid(), cmd.dword(11)>>24
	st := statusSuccess
	var b []byte
	switch {
	case cns == cnsController:
		b = k.identifyController()
	case k.discovery():
		st = statusField
	case cns == cnsActive, cns == cnsNVMActive && commandSet == 0:
		b = activeNamespaces(nsid)
		if nsid >= 0xfffffffe {
			st = statusNamespace
		}
	case cns == cnsNVMController && commandSet == 0: // no limits but MDTS
	case cns == cnsCommandSets:
		b = []byte{1} // one combination: NVM alone
	case cns == cnsNamespace, cns == cnsDescriptors, cns == cnsIndependent, cns == cnsNVMNamespace && commandSet == 0:
		b, st = k.identifyNamespace(cns), namespaceOr(cmd, statusSuccess)
	default:
		st = statusField
	}
	return padded{bytes.NewReader(b), int64(len(b))}, st
}

func activeNamespaces(after uint32) []byte {
	if after >= namespaceID {
		return nil
	}
	return le.AppendUint32(nil, namespaceID)
}

func (k *controller) identifyNamespace(cns uint8) []byte {
	b := make([]byte, identifySize)
	switch cns {
	case cnsNamespace:
		for _, at := range []int{0, 8, 16} { // size, capacity, use
			le.PutUint64(b[at:], uint64(k.disk.blocks))
		}
		b[24] = nsfeatUniqueIDs
		b[30] = nmicShared
		le.PutUint32(b[92:], anaGroup)
		b[99] = nsattrProtected
		copy(b[104:], k.sub.NGUID[:])
		b[128+2] = uint8(k.disk.shift) // of the only format
	case cnsIndependent:
		b[0] = nsfeatUniqueIDs
		b[1] = nmicShared
		le.PutUint32(b[4:], anaGroup)
		b[8] = nsattrProtected
		b[14] = nstatReady
	case cnsDescriptors:
		d := b[:0]
		if id := k.sub.NGUID; id != [16]byte{} {
			d = append(append(d, descriptorNGUID, 16, 0, 0), id[:]...)
		}
		if id := k.sub.UUID; id != [16]byte{} {
			d = append(append(d, descriptorUUID, 16, 0, 0), id[:]...)
		}
		copy(b[len(d):], []byte{descriptorCSI, 1, 0, 0, 0}) // the NVM command set is 0
	}
	return b
}

func (k *controller) identifyController() []byte {
	b := make([]byte, identifySize)
	text := func(at, size int, s string) { copy(b[at:at+size], s+string(bytes.Repeat([]byte{' '}, size))) }
	text(64, 8, firmware)
	b[77] = maxTransferPower
	le.PutUint16(b[78:], k.id)
	le.PutUint32(b[80:], version)
	le.PutUint32(b[96:], ctrattHostID|ctrattTBKAS)
	b[259] = maxEvents - 1
	le.PutUint16(b[320:], keepAliveUnit)
	le.PutUint16(b[514:], maxQueue)
	le.PutUint32(b[536:], sglSupported|sglLongerOK|sglByOffset)
	copy(b[768:768+nqnSize], k.nqn)
	if k.discovery() {
		text(4, 20, "")
		text(24, 40, "netroot discovery")
		b[111] = typeDiscovery
		b[261] = lpaExtended
		return b
	}
	text(4, 20, k.sub.Serial)
	text(24, 40, k.sub.Model)
	b[76] = cmicPorts | cmicControllers | cmicANA
	le.PutUint32(b[92:], oaesANA)
	b[111] = typeIO
	b[258] = 3 // aborts at once, counted from zero, as the specification recommends
	b[260] = frmwOneSlot
	b[261] = lpaEffects | lpaExtended
	b[342] = anaTransitionTime
	b[343] = anaOptimized | anaFixedGroup
	le.PutUint32(b[344:], anaGroup) // the highest
	le.PutUint32(b[348:], 1)        // and how many
	b[512], b[513] = 0x66, 0x44     // entries of 64 and 16 bytes
	le.PutUint32(b[516:], namespaceID)
	le.PutUint32(b[540:], 1) // namespaces that may exist: Linux requires it with ANA
	// IOCCSZ and IORCSZ, capsules of commands and completions in units of 16 bytes. Nothing is
	// written, but Linux before 6.0 sends the data of an I/O queue's Connect in the capsule only if
	// a capsule of this size can hold it.
	le.PutUint32(b[1792:], (sqeSize+connectSize)/16)
	le.PutUint32(b[1796:], 1)
	b[1803] = 1 // descriptors in a capsule
	return b
}
