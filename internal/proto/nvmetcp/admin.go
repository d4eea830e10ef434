package nvmetcp

import (
	"bytes"
	"context"
	"math"
	"time"
)

// admin answers a command of the admin queue.
func (c *conn) admin(ctx context.Context, cmd *command) error {
	k := c.ctrl
	switch cmd.opcode() {
	case opIdentify:
		page, st := k.identify(cmd)
		return c.give(cmd, page, 0, identifySize, st)
	case opGetLogPage:
		return c.logPage(ctx, cmd)
	case opGetFeatures:
		if uint8(cmd.dword(10)) == featureBehavior || uint8(cmd.dword(10)) == featureHostID {
			data, st := k.featureData(cmd)
			return c.give(cmd, padded{bytes.NewReader(data), int64(len(data))}, 0, int64(len(data)), st)
		}
		v, st := k.feature(cmd)
		return c.complete(cmd.id(), uint64(v), st)
	case opSetFeatures:
		v, st := k.setFeature(cmd)
		return c.complete(cmd.id(), uint64(v), st)
	case opKeepAlive:
		return c.complete(cmd.id(), 0, statusSuccess)
	case opAsyncEvent:
		if st := k.holdEvent(cmd.id()); st != statusSuccess {
			return c.complete(cmd.id(), 0, st)
		}
		return nil // until there is one: nothing that is served here ever changes
	case opAbort:
		return c.abort(cmd)
	}
	return c.complete(cmd.id(), 0, statusOpcode)
}

// give answers with n bytes of a page from off, unless st says that there are none.
func (c *conn) give(cmd *command, page padded, off, n int64, st status) error {
	if st == statusSuccess {
		st = cmd.takes(n)
	}
	if st != statusSuccess {
		return c.complete(cmd.id(), 0, st)
	}
	return c.transfer(transfer{id: cmd.id(), src: page, off: off, n: int(n)}, int(min(n, leanChunk)))
}

func (k *controller) holdEvent(id uint16) status {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.events) == maxEvents {
		return statusAsyncLimit
	}
	k.events = append(k.events, id)
	return statusSuccess
}

// abort ends a held Asynchronous Event Request. Every other command is answered by the time that an
// Abort could find it, or nearly so.
func (c *conn) abort(cmd *command) error {
	const notAborted = 1
	queue, id := uint16(cmd.dword(10)), uint16(cmd.dword(10)>>16)
	k := c.ctrl
	k.mu.Lock()
	found := -1
	for i, held := range k.events {
		if queue == 0 && held == id {
			found = i
		}
	}
	if found >= 0 {
		k.events = append(k.events[:found], k.events[found+1:]...)
	}
	k.mu.Unlock()
	if found < 0 {
		return c.complete(cmd.id(), notAborted, statusSuccess)
	}
	if err := c.complete(id, 0, statusAborted); err != nil {
		return err
	}
	return c.complete(cmd.id(), 0, statusSuccess)
}

// Features (Base, "Feature Identifiers").
const (
	featureQueues    uint8 = 0x07
	featureKeepAlive uint8 = 0x0f
	featureBehavior  uint8 = 0x16
	featureHostID    uint8 = 0x81

	behaviorSize = 512
)

// plainFeatures are those that a host sets and gets without anything coming of it, and the bits
// that they have. The Base and NVM specifications require them of every controller.
var plainFeatures = map[uint8]uint32{
	0x01: 0xffffff07, // arbitration
	0x02: 0,          // power management: one state
	0x04: 0x003fffff, // temperature threshold
	0x05: 0x0001ffff, // error recovery
	0x0a: 1,          // write atomicity
	0x0b: 0xffffffff, // asynchronous event configuration
}

// discoveryFeatures are those of plainFeatures that discovery has.
var discoveryFeatures = map[uint8]uint32{0x0b: plainFeatures[0x0b]}

func (k *controller) plainFeatures() map[uint8]uint32 {
	if k.discovery() {
		return discoveryFeatures
	}
	return plainFeatures
}

// feature answers Get Features of a feature without data. Only current values are kept: ONCS says
// so.
func (k *controller) feature(cmd *command) (uint32, status) {
	id := uint8(cmd.dword(10))
	_, plain := k.plainFeatures()[id]
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case cmd.dword(10)>>8&7 != 0:
		return 0, statusField
	case plain:
		return k.features[id], statusSuccess
	case id == featureKeepAlive:
		return uint32(k.kato / time.Millisecond), statusSuccess
	case id == featureQueues && !k.discovery():
		return k.grant(math.MaxUint32), statusSuccess
	}
	return 0, statusField
}

// grant returns how many I/O queues of those asked for a host can have, as Number of Queues counts:
// from zero, in two halves.
func (k *controller) grant(asked uint32) uint32 {
	most := uint32(k.srv.MaxQueues - 1)
	return min(asked&0xffff, most) | min(asked>>16, most)<<16
}

// featureData answers Get Features of a feature with data.
func (k *controller) featureData(cmd *command) ([]byte, status) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch id := uint8(cmd.dword(10)); {
	case cmd.dword(10)>>8&7 != 0 || k.discovery():
	case id == featureBehavior:
		b := k.behavior
		return b[:], statusSuccess
	case cmd.dword(11)&1 != 0: // the Host Identifier, of 16 bytes: of 8 bytes is not for fabrics
		return k.hostID[:], statusSuccess
	}
	return nil, statusField
}

func (k *controller) setFeature(cmd *command) (uint32, status) {
	id, v := uint8(cmd.dword(10)), cmd.dword(11)
	bits, plain := k.plainFeatures()[id]
	switch {
	case cmd.dword(10)>>31 != 0:
		return 0, statusNotSaveable
	case plain && v&^bits != 0:
		return 0, statusField
	case plain:
		k.mu.Lock()
		defer k.mu.Unlock()
		k.features[id] = v
		return 0, statusSuccess
	case id == featureKeepAlive:
		k.mu.Lock()
		k.kato = time.Duration(v) * time.Millisecond
		k.mu.Unlock()
		k.watch()
		return 0, statusSuccess
	case k.discovery():
		return 0, statusField
	case id == featureQueues && v&0xffff != 0xffff && v>>16 != 0xffff:
		return k.grant(v), statusSuccess
	case id == featureBehavior:
		data, st := cmd.sent(behaviorSize)
		if st == statusSuccess {
			k.mu.Lock()
			defer k.mu.Unlock()
			copy(k.behavior[:], data)
		}
		return 0, st
	case id == featureHostID: // Connect has said it
		return 0, statusSequence
	}
	return 0, statusField
}
