package receiver

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// Config is what an operator can set. The zero value of a field is its documented default.
type Config struct {
	Dir       string     `toml:"dir"`                                                // where journals and volumes live; default /var/lib/understudy/receiver
	Keep      Keep       `toml:"keep" unit:"s, m, h, d"`                             // which recovery points are kept; default 1h,1d/1h,30d/1d
	MaxPoints int        `toml:"max_points" unit:"points" range:"0.."`               // how many of a disk are kept at most; default 10000
	MaxBytes  block.Size `toml:"max_bytes" unit:"bytes" range:"0.." zero:"no limit"` // of journal for each disk, the newest point apart; default unlimited
	Horizon   Horizon    `toml:"horizon"`                                            // where the volume stands: window (default) or latest
}

// Check says what is wrong with c, nil if nothing is.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		c.Dir = "/var/lib/understudy/receiver"
	}
	if len(c.Keep) == 0 {
		c.Keep = journal.DefaultTiers()
	}
	if c.MaxPoints == 0 {
		c.MaxPoints = 10000
	}
	if c.Horizon == "" {
		c.Horizon = HorizonWindow
	}
	if c.MaxPoints < 0 || c.MaxBytes < 0 {
		return c, fmt.Errorf("max_points %d, max_bytes %d: neither may be negative", c.MaxPoints, c.MaxBytes)
	}
	if c.Horizon != HorizonWindow && c.Horizon != HorizonLatest {
		return c, fmt.Errorf("horizon %q: it is window or latest", c.Horizon)
	}
	return c, journal.CheckTiers(c.Keep)
}

// Horizon is where a disk's volume stands.
type Horizon string

// The horizons.
const (
	HorizonWindow Horizon = "window" // at the oldest point that is kept: history is in the journal
	HorizonLatest Horizon = "latest" // at the newest consistent point: no history, but it starts at once
)

// Set reads a horizon from a flag.
func (h *Horizon) Set(s string) error {
	switch Horizon(s) {
	case HorizonWindow, HorizonLatest:
		*h = Horizon(s)
		return nil
	}
	return fmt.Errorf("%q is no horizon: window or latest", s)
}

func (h *Horizon) String() string { return string(*h) }

// Type names the value in help texts.
func (h *Horizon) Type() string { return "window|latest" }

// UnmarshalText makes the horizon a string in TOML.
func (h *Horizon) UnmarshalText(text []byte) error { return h.Set(string(text)) }

// Keep says which recovery points are kept, by age: tiers from the youngest to the oldest. Its text is SPAN for a tier of which
// all points are kept, SPAN/EVERY for one that keeps the newest of each interval, with commas between: 1h,1d/1h,30d/1d.
type Keep []journal.Tier

// Set reads what String prints.
func (k *Keep) Set(s string) error {
	var tiers Keep
	for part := range strings.SplitSeq(s, ",") {
		var t journal.Tier
		span, every, several := strings.Cut(strings.TrimSpace(part), "/")
		var err error
		if t.Span, err = parseAge(span); err != nil {
			return err
		}
		if several {
			if t.Every, err = parseAge(every); err != nil {
				return err
			}
			if t.Every == 0 {
				return fmt.Errorf("%q: leave the interval out to keep all points", part)
			}
		}
		tiers = append(tiers, t)
	}
	if err := journal.CheckTiers(tiers); err != nil {
		return err
	}
	*k = tiers
	return nil
}

// parseAge reads a duration, which may be in days.
func parseAge(s string) (time.Duration, error) {
	if digits, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: say 90s, 12h or 30d", s)
	}
	return d, nil
}

func (k *Keep) String() string {
	var parts []string
	for _, t := range *k {
		parts = append(parts, t.String())
	}
	return strings.Join(parts, ",")
}

// Type names the value in help texts.
func (k *Keep) Type() string { return "tiers" }

// UnmarshalText makes the tiers a string in TOML.
func (k *Keep) UnmarshalText(text []byte) error { return k.Set(string(text)) }
