package attach

import (
	"net"
	"strconv"
	"time"

	"netroot/internal/proto/iscsi"
)

// Numbers of enum iscsi_param, include/scsi/iscsi_if.h: ISCSI_PARAM_MAX_RECV_DLENGTH and so on.
const (
	paramMaxRecvDataSegment = 0
	paramMaxXmitDataSegment = 1
	paramHeaderDigest       = 2
	paramDataDigest         = 3
	paramInitialR2T         = 4
	paramMaxR2T             = 5
	paramImmediateData      = 6
	paramFirstBurst         = 7
	paramMaxBurst           = 8
	paramPDUInOrder         = 9
	paramDataSeqInOrder     = 10
	paramErrorRecovery      = 11
	paramExpStatSN          = 14
	paramPortalGroup        = 16
	paramPersistentAddress  = 17
	paramPersistentPort     = 18
	paramRecoveryTimeout    = 19
	paramPingTimeout        = 30
	paramReceiveTimeout     = 31
	paramInitiatorName      = 34
)

// iscsiParam is a parameter of a session or connection, as text for the kernel.
type iscsiParam struct {
	id    uint32
	value string
}

// parameters are what the kernel must know to continue a session after the login.
//
// The name of the target (ISCSI_PARAM_TARGET_NAME) is not among them. The kernel itself does not use
// it, but iscsid of the root does: it takes over every session in sysfs that has one, so that the
// connection would be closed and made again under a daemon that lies on this very root, in
// competition with our keeper. A session without a name is passed over by iscsid and iscsiadm
// ("could not read session targetname"; usr/iscsi_sysfs.c of open-iscsi 2.0.873 to 2.1.11), whatever
// is started, restarted or logged out. Sessions that they made themselves are not affected.
func (d *ISCSI) parameters(s iscsi.Session) []iscsiParam {
	num := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	flag := map[bool]string{false: "0", true: "1"}
	host, port, _ := net.SplitHostPort(d.Server)
	return []iscsiParam{
		{paramMaxRecvDataSegment, num(s.MaxReceive)},
		{paramMaxXmitDataSegment, num(s.MaxSend)},
		{paramHeaderDigest, flag[s.HeaderDigest]},
		{paramDataDigest, flag[s.DataDigest]},
		{paramInitialR2T, flag[s.InitialR2T]},
		{paramMaxR2T, num(s.MaxR2T)},
		{paramImmediateData, flag[s.ImmediateData]},
		{paramFirstBurst, num(s.FirstBurst)},
		{paramMaxBurst, num(s.MaxBurst)},
		{paramPDUInOrder, flag[s.PDUInOrder]},
		{paramDataSeqInOrder, flag[s.SeqInOrder]},
		{paramErrorRecovery, num(s.ErrorRecovery)},
		{paramExpStatSN, num(s.ExpStatSN)},
		{paramPortalGroup, num(uint32(s.PortalGroup))},
		{paramPersistentAddress, host}, // udev makes names of address and port
		{paramPersistentPort, port},
		// Below zero: commands never fail because a connection is missing
		// (iscsi_block_session in drivers/scsi/scsi_transport_iscsi.c).
		{paramRecoveryTimeout, "-1"},
		{paramPingTimeout, num(uint32(iscsiPing / time.Second))},
		{paramReceiveTimeout, num(uint32(iscsiIdle / time.Second))},
		{paramInitiatorName, d.Initiator},
	}
}
