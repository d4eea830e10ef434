package iscsi

import (
	"fmt"
	"strings"
)

// Keys of the operational negotiation (RFC 7143 §13).
const (
	keyHeaderDigest  = "HeaderDigest"
	keyDataDigest    = "DataDigest"
	keyMaxReceive    = "MaxRecvDataSegmentLength"
	keyMaxBurst      = "MaxBurstLength"
	keyFirstBurst    = "FirstBurstLength"
	keyInitialR2T    = "InitialR2T"
	keyImmediateData = "ImmediateData"
	keyMaxR2T        = "MaxOutstandingR2T"
	keyMaxConns      = "MaxConnections"
	keyPDUInOrder    = "DataPDUInOrder"
	keySeqInOrder    = "DataSequenceInOrder"
	keyRecovery      = "ErrorRecoveryLevel"
	keyTimeToWait    = "DefaultTime2Wait"
	keyTimeToRetain  = "DefaultTime2Retain"
	keyReporting     = "TaskReporting"
	keyProtocolLevel = "iSCSIProtocolLevel" // RFC 7144

	keyInitiatorName  = "InitiatorName"
	keyInitiatorAlias = "InitiatorAlias"
	keyTargetName     = "TargetName"
	keyTargetAlias    = "TargetAlias"
	keyTargetAddress  = "TargetAddress"
	keyPortalGroup    = "TargetPortalGroupTag"
	keySessionType    = "SessionType"
	keySendTargets    = "SendTargets"

	digestCRC32C   = "CRC32C"
	sessionNormal  = "Normal"
	sessionListing = "Discovery"
)

// terms is what a connection goes by; the zero value is not the default, newTerms is.
type terms struct {
	digests
	maxSend    uint32 // bytes of data that the peer takes in one PDU
	maxBurst   uint32 // of a sequence of Data-In
	firstBurst uint32
}

func newTerms() terms { return terms{maxSend: 8192, maxBurst: 262144, firstBurst: 65536} }

// answer settles one key that the peer offered, and returns the answer to it: "" for a declaration, which has
// none. A value that cannot be is rejected and changes nothing.
func (o *terms) answer(p pair) string {
	answer, err := o.settle(p)
	if err != nil {
		return valueReject
	}
	return answer
}

func (o *terms) settle(p pair) (string, error) {
	switch p.key {
	case keyHeaderDigest:
		return chooseDigest(p.value, &o.header)
	case keyDataDigest:
		return chooseDigest(p.value, &o.data)
	case keyMaxReceive:
		n, err := number(p.value, minReceive, mostLength)
		if err == nil {
			o.maxSend = n
		}
		return "", err
	case keyMaxBurst:
		return least(p.value, minReceive, mostLength, mostLength, &o.maxBurst)
	case keyFirstBurst:
		return least(p.value, minReceive, mostLength, o.maxBurst, &o.firstBurst)
	case keyMaxConns, keyMaxR2T:
		return least(p.value, 1, 65535, 1, nil)
	case keyRecovery:
		return least(p.value, 0, 2, 0, nil)
	case keyTimeToRetain:
		return least(p.value, 0, 3600, 0, nil)
	case keyTimeToWait: // the larger one, ours is 0
		return least(p.value, 0, 3600, 3600, nil)
	case keyProtocolLevel:
		return least(p.value, 0, 31, 1, nil)
	case keyInitialR2T, keyPDUInOrder, keySeqInOrder: // Yes wins
		return constant(p.value, true)
	case keyImmediateData: // No wins
		return constant(p.value, false)
	case keyReporting:
		return choose(p.value, "RFC3720")
	case "IFMarker", "OFMarker": // obsolete, §13.25
		return constant(p.value, false)
	case "IFMarkInt", "OFMarkInt":
		return valueReject, nil
	case keyInitiatorAlias, keyTargetAlias:
		return "", nil
	}
	return valueNotUnderstood, nil
}

// least answers with the smaller of the offer and ours, and stores it.
func least(value string, low, high, ours uint32, to *uint32) (string, error) {
	n, err := number(value, low, high)
	if err != nil {
		return "", err
	}
	n = min(n, ours)
	if to != nil {
		*to = n
	}
	return fmt.Sprint(n), nil
}

func constant(value string, ours bool) (string, error) {
	_, err := boolean(value)
	return yesNo(ours), err
}

// choose answers with the first of a list of values that is one of ours.
func choose(list string, ours ...string) (string, error) {
	for theirs := range strings.SplitSeq(list, ",") {
		for _, v := range ours {
			if theirs == v {
				return v, nil
			}
		}
	}
	return "", fmt.Errorf("nothing of %q is known", clip(list))
}

func chooseDigest(list string, on *bool) (string, error) {
	v, err := choose(list, digestCRC32C, valueNone)
	if err == nil {
		*on = v == digestCRC32C
	}
	return v, err
}
