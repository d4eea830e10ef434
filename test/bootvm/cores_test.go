package bootvm

import (
	"sync"
	"testing"
)

// cores are the processors for the tests: a test takes one when it calls [limit], and has it until
// it ends. An emulated machine requires one for itself, and a build uses one most of the time. More
// tests than that run at once, because one whose server is away for a minute needs none, which it
// says with [cores.leave].
//
// A test that has parallel subtests must not take one: they would wait for its end.
type cores struct {
	mu      sync.Mutex
	changed *sync.Cond
	free    int
	holders map[*testing.T]bool // false: has left it
}

var processors = newCores(2)

func newCores(n int) *cores {
	c := &cores{free: n, holders: map[*testing.T]bool{}}
	c.changed = sync.NewCond(&c.mu)
	return c
}

// take waits for a core, unless the test has one.
func (c *cores) take(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.holders[t]; ok {
		return
	}
	for c.free <= 0 {
		c.changed.Wait()
	}
	c.free--
	c.holders[t] = true
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.set(t, false)
		delete(c.holders, t)
	})
}

// leave lets another test have the core until back is called. back does not wait: a machine that
// may go on must not be held up, and for a while one more than the cores runs.
func (c *cores) leave(t *testing.T) (back func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(t, false)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.set(t, true)
	}
}

func (c *cores) set(t *testing.T, has bool) {
	if had, ok := c.holders[t]; !ok || had == has {
		return
	}
	c.holders[t] = has
	if has {
		c.free--
		return
	}
	c.free++
	c.changed.Broadcast()
}

// TestCores requires no machine.
func TestCores(t *testing.T) {
	c := newCores(1)
	t.Run("first", func(first *testing.T) {
		c.take(first)
		c.take(first) // has it
		back := c.leave(first)
		first.Run("second", func(second *testing.T) {
			c.take(second)
			back() // at once
			if c.free != -1 {
				second.Errorf("%d free with two that run on one", c.free)
			}
		})
		if c.free != 0 {
			first.Errorf("%d free after the second", c.free)
		}
		waits := make(chan int)
		first.Run("third", func(third *testing.T) {
			go func() {
				c.mu.Lock()
				for c.free <= 0 {
					c.changed.Wait()
				}
				waits <- c.free
				c.mu.Unlock()
			}()
			c.leave(first)
			if free := <-waits; free != 1 {
				third.Errorf("%d free", free)
			}
		})
	})
	if c.free != 1 || len(c.holders) > 0 {
		t.Errorf("%d free, %d holders at the end", c.free, len(c.holders))
	}
}
