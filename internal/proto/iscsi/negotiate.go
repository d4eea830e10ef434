package iscsi

import (
	"fmt"
	"strings"
)

// terms is what a connection goes by; the zero value is not the default, newTerms is.
type terms struct {
	digests
	maxSend    uint32 // bytes of data that the peer takes in one PDU
	maxBurst   uint32 // of a sequence of Data-In
	firstBurst uint32
}

func newTerms() terms {
	return terms{
		maxSend: receiveLength.standard, maxBurst: burstLength.standard, firstBurst: firstBurstLength.standard,
	}
}

// answer settles one key that the peer offered, and returns the answer to it: "" for a declaration,
// which has none. A value that cannot be is rejected and changes nothing.
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
		n, err := receiveLength.parse(p.value)
		if err == nil {
			o.maxSend = n
		}
		return "", err
	case keyMaxBurst:
		return burstLength.least(p.value, burstLength.high, &o.maxBurst)
	case keyFirstBurst:
		return firstBurstLength.least(p.value, o.maxBurst, &o.firstBurst)
	case keyMaxConns:
		return maxConnections.least(p.value, targetConnections, nil)
	case keyMaxR2T:
		return maxOutstandingR2T.least(p.value, targetR2T, nil)
	case keyRecovery:
		return recoveryLevel.least(p.value, targetRecovery, nil)
	case keyTimeToRetain:
		return timeToRetain.least(p.value, targetTimeToRetain, nil)
	case keyTimeToWait: // the larger value is agreed on; ours is 0
		return timeToWait.least(p.value, timeToWait.high, nil)
	case keyProtocolLevel:
		return protocolLevel.least(p.value, targetProtocolLevel, nil)
	case keyInitialR2T, keyPDUInOrder, keySeqInOrder: // Yes wins
		return constant(p.value, true)
	case keyImmediateData: // No wins
		return constant(p.value, false)
	case keyReporting:
		return choose(p.value, reportingRFC3720)
	case keyMarkIn, keyMarkOut:
		return constant(p.value, false)
	case keyMarkInInterval, keyMarkOutInterval:
		return valueReject, nil
	case keyInitiatorAlias, keyTargetAlias:
		return "", nil
	}
	return valueNotUnderstood, nil
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
