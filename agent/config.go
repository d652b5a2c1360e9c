package agent

import (
	"fmt"
	"os"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

// Config is what an operator can set. The zero value of a field is its documented default.
type Config struct {
	Disks     []string        `toml:"disks"`      // block devices to protect: whole disks, partitions, loop devices
	Host      string          `toml:"host"`       // name of this host; default: the kernel's host name
	Interval  time.Duration   `toml:"interval"`   // from one recovery point to the next; default 5s
	StateDir  string          `toml:"state_dir"`  // where disk ids are kept; default /var/lib/understudy/agent
	BlockSize block.BlockSize `toml:"block_size"` // granularity of the dirty set in bytes; default 4096, coarser for huge disks
	Compress  codec.Level     `toml:"compress"`   // none, s2 or zstd; default s2

	Freeze       *bool         `toml:"freeze"`        // false: points are read while writes go on, and are fuzzy; default true
	FreezeBudget time.Duration `toml:"freeze_budget"` // what a freeze should stay under; default 50ms
	FreezeLimit  time.Duration `toml:"freeze_limit"`  // when the guard thaws and the point is given up; default 2s
	Residue      block.Size    `toml:"residue"`       // memory in bytes, shared by all disks, for what a freeze reads; default 64 MiB

	Applications []Application `toml:"application"` // that have hooks; default none
}

// Limits of the agent's memory, which it keeps whatever the disks' size and churn.
const (
	// bitmapBudget is the memory of one kind of bitmap over all disks. There are three kinds (marks, pending, sent).
	bitmapBudget = 16 * block.MiB
	// partBytes of payload end a part of a long delta: the target makes it durable, and a break costs no more than this.
	partBytes = 512 * block.MiB
	// partTime ends a part on a slow line.
	partTime = 20 * time.Second
	// maxPasses bounds pre-copy before one point. A disk that is dirtied faster than the line drains gets no smaller
	// residue by trying more often.
	maxPasses = 12
)

// frozen tells whether points are taken of a frozen group.
func (c Config) frozen() bool { return c.Freeze == nil || *c.Freeze }

// withDefaults validates c and fills a copy.
func (c Config) withDefaults() (Config, error) {
	if len(c.Disks) == 0 {
		return c, fmt.Errorf("no disk to protect: name one with --disk /dev/… or in the config's disks")
	}
	if c.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("read host name: %w; set one with --host", err)
		}
		c.Host = name
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Interval, 5*time.Second)
	def(&c.FreezeBudget, 50*time.Millisecond)
	def(&c.FreezeLimit, 2*time.Second)
	if c.StateDir == "" {
		c.StateDir = "/var/lib/understudy/agent"
	}
	if c.Compress == "" {
		c.Compress = codec.LevelS2
	}
	if c.Residue == 0 {
		c.Residue = 64 * block.MiB
	}
	if c.BlockSize != 0 {
		if err := c.BlockSize.Check(); err != nil {
			return c, err
		}
	}
	var err error
	if c.Applications, err = applicationsWithDefaults(c.Applications); err != nil {
		return c, err
	}
	switch {
	case len(c.Applications) > 0 && !c.frozen():
		return c, fmt.Errorf("freeze is off, and there are applications: a point that is no instant can't be an application's")
	case c.Interval < 100*time.Millisecond:
		return c, fmt.Errorf("interval %v is too short: 100ms at least", c.Interval)
	case c.FreezeLimit < c.FreezeBudget:
		return c, fmt.Errorf("freeze_limit %v is below freeze_budget %v", c.FreezeLimit, c.FreezeBudget)
	case c.Residue < block.MiB || c.Residue > block.GiB:
		return c, fmt.Errorf("residue %v is outside of 1 MiB to 1 GiB", c.Residue)
	}
	return c, nil
}
