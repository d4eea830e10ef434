package iscsi

// supported is what REPORT SUPPORTED OPERATION CODES tells: for each command the bits of its CDB
// that are looked at. Commands that are refused because they write are not supported in this sense.
var supported = []struct {
	op     byte
	action int // service action; -1: the command has none
	usage  string
}{
	{scsiTestUnitReady, -1, "\x00\x00\x00\x00\x00\x04"},
	{scsiRequestSense, -1, "\x03\x01\x00\x00\xff\x04"},
	{scsiRead6, -1, "\x08\x1f\xff\xff\xff\x04"},
	{scsiInquiry, -1, "\x12\x01\xff\xff\xff\x04"},
	{scsiModeSense6, -1, "\x1a\x08\xff\xff\xff\x04"},
	{scsiStartStop, -1, "\x1b\x01\x00\x0f\xf7\x04"},
	{scsiPreventAllow, -1, "\x1e\x00\x00\x00\x03\x04"},
	{scsiReadCapacity, -1, "\x25\x00\x00\x00\x00\x00\x00\x00\x00\x04"},
	{scsiRead10, -1, "\x28\xf8\xff\xff\xff\xff\x00\xff\xff\x04"},
	{scsiPrefetch10, -1, "\x34\x02\xff\xff\xff\xff\x00\xff\xff\x04"},
	{scsiSyncCache10, -1, "\x35\x02\xff\xff\xff\xff\x00\xff\xff\x04"},
	{scsiModeSense10, -1, "\x5a\x18\xff\xff\x00\x00\x00\xff\xff\x04"},
	{scsiRead16, -1, "\x88\xf8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x04"},
	{scsiPrefetch16, -1, "\x90\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x04"},
	{scsiSyncCache16, -1, "\x91\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x04"},
	{scsiServiceIn16, actionCapacity16, "\x9e\x1f\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x04"},
	{scsiReportLUNs, -1, "\xa0\x00\xff\x00\x00\x00\xff\xff\xff\xff\x00\x04"},
	{scsiMaintenanceIn, actionReportOps, "\xa3\x1f\x87\xff\xff\xff\xff\xff\xff\xff\x00\x04"},
	{scsiRead12, -1, "\xa8\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x00\x04"},
}

// timeouts is a command timeouts descriptor (SPC-4 §6.35.4) that says nothing.
var timeouts = []byte{1: 0x0a, 11: 0}

// reportOps answers REPORT SUPPORTED OPERATION CODES (SPC-4 §6.35).
func reportOps(c *cdb) outcome {
	times := c[2]&0x80 != 0
	op, action := c[3], int(c.short(4))
	var b []byte
	switch options := c[2] & 7; options {
	case 0:
		b = allOps(times)
	case 1, 2, 3:
		has := hasActions(op)
		if options == 1 && has || options == 2 && !has {
			return failure(senseField)
		}
		if !has {
			action = -1
		}
		b = oneOp(op, action, times)
	default:
		return failure(senseField)
	}
	return reply(b, c.long(6))
}

func hasActions(op byte) bool {
	return op == scsiServiceIn16 || op == scsiMaintenanceIn
}

func allOps(times bool) []byte {
	b := make([]byte, 4)
	for _, s := range supported {
		var flags byte
		if s.action >= 0 {
			flags |= 1 // SERVACTV
		}
		if times {
			flags |= 2 // CTDP
		}
		b = append(b, s.op, 0)
		b = be.AppendUint16(b, uint16(max(s.action, 0)))
		b = append(b, 0, flags)
		b = be.AppendUint16(b, uint16(len(s.usage)))
		if times {
			b = append(b, timeouts...)
		}
	}
	be.PutUint32(b, uint32(len(b)-4))
	return b
}

func oneOp(op byte, action int, times bool) []byte {
	for _, s := range supported {
		if s.op != op || s.action != action {
			continue
		}
		b := []byte{0, 3} // supported as the standard has it
		b = be.AppendUint16(b, uint16(len(s.usage)))
		b = append(b, s.usage...)
		if times {
			b[1] |= 0x80
			b = append(b, timeouts...)
		}
		return b
	}
	return []byte{0, 1, 0, 0} // not supported
}
