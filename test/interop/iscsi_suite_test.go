package interop

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// iscsiSuites are the suites of libiscsi's test program that a read-only disk must pass. "-d" lets
// the tests send what would destroy data, which this disk refuses. What is left out would
//
//   - fail, because it writes and takes it for granted that this succeeds: CompareAndWrite, OrWrite, Write10 to Write16,
//     WriteAtomic16, WriteSame*, WriteVerify*, iSCSIResiduals.Write*, iSCSITMF; or because it requires persistent
//     reservations, which say which initiator may write: Prin*, Prout*;
//   - skip itself, because the disk is not removable (NoMedia, PreventAllow, StartStopUnit) or thin (GetLBAStatus,
//     Unmap), has one path (MultipathIO), or does not know the command: RESERVE, VERIFY, SANITIZE, copies, defect lists.
var iscsiSuites = []struct {
	name  string
	args  []string
	tests int // of version 1.19; a newer one may have more
	skips int // of them, see iscsiSkips
}{
	{"SCSI.Inquiry", nil, 7, 1}, {"SCSI.Mandatory", nil, 1, 0}, {"SCSI.ModeSense6", []string{"-d"}, 5, 0},
	{"SCSI.Prefetch10", nil, 4, 0}, {"SCSI.Prefetch16", nil, 4, 0}, {"SCSI.PrinServiceactionRange", nil, 1, 0},
	{"SCSI.Read6", nil, 2, 0}, {"SCSI.Read10", []string{"-d"}, 6, 0}, {"SCSI.Read12", nil, 5, 0}, {"SCSI.Read16", nil, 5, 0},
	{"SCSI.ReadCapacity10", nil, 1, 0}, {"SCSI.ReadCapacity16", nil, 4, 0}, {"SCSI.ReadOnly", []string{"-d"}, 1, 0},
	{"SCSI.ReportSupportedOpcodes", nil, 4, 1}, {"SCSI.TestUnitReady", nil, 1, 0},
	{"iSCSI.iSCSIcmdsn", nil, 2, 0}, {"iSCSI.iSCSIdatasn", []string{"-d"}, 1, 0}, {"iSCSI.iSCSIResiduals.Read*", nil, 4, 0},
}

// iscsiSkips are why a test ends early that is counted as passed: Inquiry.BlockLimits asks a thin
// disk more, and ReportSupportedOpcodes.OneCommand takes the error that it provokes for ignorance.
var iscsiSkips = map[string]bool{
	"[SKIPPED] Logical unit is fully provisioned. Skipping test": true,
	"[SKIPPED] REPORT_SUPPORTED_OPCODES is not implemented.":     true,
}

var (
	testCounts = regexp.MustCompile(`(?m)^ +tests +\d+ +(\d+) +(\d+) +(\d+)`)
	skipped    = regexp.MustCompile(`\[SKIPPED\].*`)
)

func TestISCSISuite(t *testing.T) {
	need(t, "iscsi-test-cu", "libiscsi-bin")
	d := serveISCSI(t, nil)
	for _, s := range iscsiSuites {
		t.Run(s.name, func(t *testing.T) {
			argv := append(append([]string{"iscsi-test-cu", "-V"}, s.args...), "--test="+s.name, d.url())
			out, _ := command(t, argv...) // some versions end well whatever the result
			m := testCounts.FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("no summary:\n%s", out)
			}
			ran, _ := strconv.Atoi(m[1])
			if ran < s.tests || m[2] != m[1] || m[3] != "0" {
				t.Errorf("%s ran, %s passed, %s failed; %d are known\n%s", m[1], m[2], m[3], s.tests, out)
			}
			why := map[string]bool{}
			for _, line := range skipped.FindAllString(out, -1) {
				if line = strings.TrimSpace(line); line != "[SKIPPED] PERSISTENT RESERVE IN is not implemented." { // asked once before every test
					why[line] = true
				}
				if len(why) > s.skips || why[line] && !iscsiSkips[line] {
					t.Errorf("not expected: %s", line)
				}
			}
			t.Logf("%s of %s passed %v", m[2], m[1], slices.Collect(maps.Keys(why)))
		})
	}
}
