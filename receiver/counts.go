package receiver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

// What is counted for metrics and is kept nowhere else.

// replicaCounts are those of one disk's copy, since the receiver began.
type replicaCounts struct {
	deltas        metrics.Tally[block.Class] // made durable
	payload       atomic.Int64               // bytes in them
	covered       atomic.Int64               // bytes of disk that they cover
	dropped       atomic.Int64               // deltas that were begun and are not kept
	damagedFrames atomic.Int64               // that did not have the checksum they came with
	retention     atomic.Int64               // runs
	unretained    atomic.Int64               // of them that failed
	audits        atomic.Int64
	damage        atomic.Int64 // audits, and checks at the start, that found any
	restores      atomic.Int64 // that were sent to their end
}

func (c *replicaCounts) begin() {
	c.deltas.Begin(block.ClassNone, block.ClassCrash, block.ClassApplication, block.ClassFuzzy)
}

func (c *replicaCounts) sealed(s block.Seal) {
	c.deltas.Add(s.Class, 1)
	c.payload.Add(int64(s.Payload))
	c.covered.Add(int64(s.Covered))
}

// retained counts a run of the retention; one that was told to stop is none.
func (c *replicaCounts) retained(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	c.retention.Add(1)
	if err != nil {
		c.unretained.Add(1)
	}
}

// counts are those of the receiver.
type counts struct {
	refusals metrics.Tally[refusal]
	commands metrics.Tally[string]
	began    metrics.Tally[wire.Role] // sessions

	mu   sync.Mutex
	open map[wire.Role]int // sessions
}

// refusal is whose request failed, and why.
type refusal struct {
	role wire.Role
	code wire.Code
}

func (c *counts) begin() {
	c.began.Begin(wire.Roles()...)
	for _, code := range []wire.Code{wire.CodeFenced, wire.CodeForbidden, wire.CodeBusy, wire.CodeTip, wire.CodeNoSpace, wire.CodeCorrupt, wire.CodeProtocol, wire.CodeInternal} {
		c.refusals.Begin(refusal{wire.RoleSource, code}) // what stops a host from being protected
	}
	for _, kind := range []wire.CommandKind{wire.CommandPromote, wire.CommandAccept, wire.CommandPin, wire.CommandUnpin, wire.CommandAudit} {
		c.commands.Begin(kind.String())
	}
	c.open = map[wire.Role]int{}
}

// enter counts a session until leave.
func (c *counts) enter(role wire.Role) (leave func()) {
	c.began.Add(role, 1)
	count := func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open[role] += n
	}
	count(1)
	return func() { count(-1) }
}

// sessions is how many are open of a role.
func (c *counts) sessions(role wire.Role) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open[role]
}
