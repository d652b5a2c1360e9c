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

	Freeze       *bool         `toml:"freeze"`        // freeze mounted file systems for a point; default true. false makes all points fuzzy
	FreezeBudget time.Duration `toml:"freeze_budget"` // what a freeze is made to stay under; the guard ends it 100 ms later; default 50ms
	Memory       block.Size    `toml:"memory"`        // the agent's memory; what 184 MiB leave of it a freeze may fill; default 256 MiB
	Unfreezable  Unfreezable   `toml:"unfreezable"`   // refuse or fuzzy: points of a disk whose writes no freeze stops; default refuse

	ScanRate    block.Size    `toml:"scan_rate"`    // bytes of a disk read in a second when it is compared after a gap in tracking; default unlimited
	VerifyEvery time.Duration `toml:"verify_every"` // in what time a disk is compared with its copy once, a little at a time; default 168h, negative: never
	VerifyRate  block.Size    `toml:"verify_rate"`  // bytes of a disk read in a second for that, at most; default 32 MiB

	Applications []Application `toml:"application"` // that have hooks; default none
}

// Unfreezable is what becomes of a disk that is written beside its mounted file systems.
type Unfreezable string

// The choices.
const (
	UnfreezableRefuse Unfreezable = "refuse" // the group gets no recovery point
	UnfreezableFuzzy  Unfreezable = "fuzzy"  // the disk gets points of class fuzzy, which latest never means; the others are one instant
)

// String, Set and Type make it a flag; UnmarshalText a key of the configuration file.
func (u Unfreezable) String() string { return string(u) }

// Set implements the flag's value.
func (u *Unfreezable) Set(s string) error {
	if v := Unfreezable(s); v != UnfreezableRefuse && v != UnfreezableFuzzy {
		return fmt.Errorf("%q is neither refuse nor fuzzy", s)
	}
	*u = Unfreezable(s)
	return nil
}

// Type implements the flag's value.
func (u Unfreezable) Type() string { return "refuse|fuzzy" }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *Unfreezable) UnmarshalText(text []byte) error { return u.Set(string(text)) }

// freezes tells whether points are taken with a freeze.
func (c Config) freezes() bool { return c.Freeze == nil || *c.Freeze }

// freezeLimit is when the guard ends a freeze.
func (c Config) freezeLimit() time.Duration { return c.FreezeBudget + freezeGrace }

const (
	// partBytes of payload end a part of a long delta: the target makes it durable, and a break costs no more than this.
	partBytes = 512 * block.MiB
	// partTime ends a part on a slow line.
	partTime = 20 * time.Second
)

// Check tells what an agent would refuse of c.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

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
	if c.StateDir == "" {
		c.StateDir = "/var/lib/understudy/agent"
	}
	if c.Compress == "" {
		c.Compress = codec.LevelS2
	}
	if c.Memory == 0 {
		c.Memory = 256 * block.MiB
	}
	if c.Unfreezable == "" {
		c.Unfreezable = UnfreezableRefuse
	}
	def(&c.VerifyEvery, 7*24*time.Hour)
	if c.VerifyRate == 0 {
		c.VerifyRate = 32 * block.MiB
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
	case len(c.Applications) > 0 && !c.freezes():
		return c, fmt.Errorf("freeze is off, and there are applications: a point that is no instant can't be an application's")
	case c.Interval < 100*time.Millisecond:
		return c, fmt.Errorf("interval %v is too short: 100ms at least", c.Interval)
	case c.FreezeBudget < time.Millisecond || c.FreezeBudget > 10*time.Second:
		return c, fmt.Errorf("freeze_budget %v is outside of 1ms to 10s", c.FreezeBudget)
	case c.Memory < leastMemory || c.Memory > mostMemory:
		return c, fmt.Errorf("memory %v is outside of %v to %v", c.Memory, leastMemory, mostMemory)
	case c.ScanRate < 0 || c.VerifyRate < 0:
		return c, fmt.Errorf("scan_rate %v, verify_rate %v: none may be negative", c.ScanRate, c.VerifyRate)
	}
	return c, nil
}
