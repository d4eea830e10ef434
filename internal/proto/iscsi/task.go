package iscsi

import (
	"context"
	"sync"
)

const (
	window     = 128        // commands that an initiator may have sent and not got an answer to
	maxTasks   = window + 8 // with immediate ones
	maxRunning = 16         // of them at once, each with a buffer of at most maxBuffer
	maxBuffer  = 256 << 10  // bytes of data that are read and sent at once
	leanBuffer = 64 << 10   // of a command that runs while the server's memory is taken
	headRoom   = 1 << 10    // bytes of a buffer beside its data, for the headers of some twenty PDUs
)

// task is one SCSI command.
type task struct {
	tag       uint32
	expect    uint32 // bytes that the initiator is ready to move
	reads     bool   // into its memory
	immediate bool
	outcome   // what the disk says
}

// room is how many bytes the initiator takes.
func (t *task) room() int64 {
	if !t.reads {
		return 0
	}
	return int64(t.expect)
}

// tasks are the commands of a connection.
type tasks struct {
	mu      sync.Mutex
	known   map[uint32]*task // by tag: neither answered nor aborted
	queue   []*task          // that wait for others
	running int
	workers sync.WaitGroup
}

// admit makes t known, and returns 0, or the reason to reject it.
func (c *conn) admit(t *task) (reject byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.known[t.tag] != nil:
		return rejectTask
	case len(c.known) >= maxTasks:
		return rejectTooMany
	case c.known == nil:
		c.known = make(map[uint32]*task)
	}
	c.known[t.tag] = t
	return 0
}

// speaks reports whether t is still known. With its last reply it is forgotten, and its place in
// the window is free.
func (c *conn) speaks(t *task, last bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[t.tag] != t {
		return false
	}
	if last {
		c.forget(t)
	}
	return true
}

// forget needs c.mu.
func (c *conn) forget(t *task) {
	delete(c.known, t.tag)
	if !t.immediate {
		c.maxCmdSN.Add(1)
	}
}

// abort forgets the task of that tag, and reports whether there was one. It says nothing after:
// what it has begun to send is sent before the caller can send the next PDU.
func (c *conn) abort(tag uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.known[tag]
	if t == nil {
		return false
	}
	c.forget(t)
	return true
}

func (c *conn) abortAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.known {
		c.forget(t)
	}
	c.queue = nil
}

// idle reports whether no task waits for another.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) == 0
}

// start runs t beside others as soon as fewer than maxRunning run.
func (c *conn) start(ctx context.Context, t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, t)
	if c.running < maxRunning {
		c.running++
		c.workers.Go(func() { c.work(ctx) })
	}
}

func (c *conn) work(ctx context.Context) {
	defer c.Survive("command")
	for t := c.next(); t != nil; t = c.next() {
		if err := c.run(ctx, t); err != nil {
			c.Fail(err)
		}
	}
}

// next takes a task off the queue; nil when there is none and the worker is to end.
func (c *conn) next() *task {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		t := c.queue[0]
		c.queue = c.queue[1:]
		if c.known[t.tag] == t {
			return t
		}
	}
	c.queue = nil
	c.running--
	return nil
}

// dropQueue forgets the tasks that do not run yet.
func (c *conn) dropQueue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = nil
}
