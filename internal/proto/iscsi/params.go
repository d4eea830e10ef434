package iscsi

import "fmt"

// Keys of login and text negotiation, with the sections of RFC 7143 that define them.
const (
	keyHeaderDigest   = "HeaderDigest"             // §13.1
	keyDataDigest     = "DataDigest"               // §13.1
	keyMaxConns       = "MaxConnections"           // §13.2
	keySendTargets    = "SendTargets"              // §13.3
	keyTargetName     = "TargetName"               // §13.4
	keyInitiatorName  = "InitiatorName"            // §13.5
	keyTargetAlias    = "TargetAlias"              // §13.6
	keyInitiatorAlias = "InitiatorAlias"           // §13.7
	keyTargetAddress  = "TargetAddress"            // §13.8
	keyPortalGroup    = "TargetPortalGroupTag"     // §13.9
	keyInitialR2T     = "InitialR2T"               // §13.10
	keyImmediateData  = "ImmediateData"            // §13.11
	keyMaxReceive     = "MaxRecvDataSegmentLength" // §13.12
	keyMaxBurst       = "MaxBurstLength"           // §13.13
	keyFirstBurst     = "FirstBurstLength"         // §13.14
	keyTimeToWait     = "DefaultTime2Wait"         // §13.15
	keyTimeToRetain   = "DefaultTime2Retain"       // §13.16
	keyMaxR2T         = "MaxOutstandingR2T"        // §13.17
	keyPDUInOrder     = "DataPDUInOrder"           // §13.18
	keySeqInOrder     = "DataSequenceInOrder"      // §13.19
	keyRecovery       = "ErrorRecoveryLevel"       // §13.20
	keySessionType    = "SessionType"              // §13.21
	keyReporting      = "TaskReporting"            // §13.23
	keyProtocolLevel  = "iSCSIProtocolLevel"       // §13.24

	// Markers are obsolete; both sides answer No to the first two and Reject to the others
	// (§13.25).
	keyMarkIn          = "IFMarker"
	keyMarkOut         = "OFMarker"
	keyMarkInInterval  = "IFMarkInt"
	keyMarkOutInterval = "OFMarkInt"
)

// Values that answer instead of a value (§6.2), and values of single keys.
const (
	valueReject        = "Reject"
	valueNotUnderstood = "NotUnderstood"
	valueIrrelevant    = "Irrelevant"

	valueYes  = "Yes" // §6.1, boolean-value
	valueNo   = "No"
	valueNone = "None" // of digests and AuthMethod

	digestCRC32C     = "CRC32C"    // §13.1
	sessionNormal    = "Normal"    // §13.21
	sessionListing   = "Discovery" // §13.21
	reportingRFC3720 = "RFC3720"   // §13.23
	sendAll          = "All"       // Appendix C
)

// parameter is a key whose value is a number.
type parameter struct {
	key       string
	low, high uint32 // the range that the RFC allows
	standard  uint32 // what holds when the key is not negotiated
}

var (
	maxConnections    = parameter{keyMaxConns, 1, 65535, 1}
	receiveLength     = parameter{keyMaxReceive, 512, 1<<24 - 1, 8192} // bytes, as the next two
	burstLength       = parameter{keyMaxBurst, 512, 1<<24 - 1, 262144}
	firstBurstLength  = parameter{keyFirstBurst, 512, 1<<24 - 1, 65536}
	timeToWait        = parameter{keyTimeToWait, 0, 3600, 2} // seconds, as the next
	timeToRetain      = parameter{keyTimeToRetain, 0, 3600, 20}
	maxOutstandingR2T = parameter{keyMaxR2T, 1, 65535, 1}
	recoveryLevel     = parameter{keyRecovery, 0, 2, 0}
	protocolLevel     = parameter{keyProtocolLevel, 0, 31, 1}
)

// What the target side of this package declares and accepts.
const (
	maxReceive           = 8192 // bytes of data in a request; the standard value, and the most in a login (§13.12)
	targetConnections    = 1    // of a session
	targetR2T            = 1    // data is never solicited
	targetRecovery       = 0
	targetTimeToRetain   = 0 // a session ends with its connection
	targetProtocolLevel  = 1 // RFC 7143
	portalGroup          = 1 // every portal of a Server is in it
	defaultReceiveLength = 256 << 10
)

// What the initiator side offers. A target may choose less.
const (
	offerConnections  = 1
	offerRecovery     = 0
	offerTimeToWait   = 0
	offerTimeToRetain = 0
	offerR2T          = 1
	offerBurst        = 1 << 20
	offerFirstBurst   = 64 << 10
)

// parse reads a value in the range of the RFC.
func (p parameter) parse(value string) (uint32, error) { return number(value, p.low, p.high) }

// atMost reads the answer to an offer, which is the most that the peer may choose.
func (p parameter) atMost(value string, offered uint32) (uint32, error) {
	return number(value, p.low, offered)
}

// least answers an offer with the smaller of it and ours. It stores the result in to unless that is
// nil.
func (p parameter) least(value string, ours uint32, to *uint32) (string, error) {
	n, err := p.parse(value)
	if err != nil {
		return "", err
	}
	n = min(n, ours)
	if to != nil {
		*to = n
	}
	return fmt.Sprint(n), nil
}

// offer is the pair that an initiator sends.
func (p parameter) offer(n uint32) pair { return pair{p.key, fmt.Sprint(n)} }
