package receiver

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Config is what an operator can set. The zero value of a field is its documented default.
type Config struct {
	Dir       string        `toml:"dir"`        // where journals and volumes live; default /var/lib/understudy/receiver
	Keep      time.Duration `toml:"keep"`       // how long recovery points are kept; default 1h
	MaxPoints int           `toml:"max_points"` // how many are kept at most; default 10000
	MaxBytes  block.Size    `toml:"max_bytes"`  // of journal for each disk, the newest point apart; default unlimited
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		c.Dir = "/var/lib/understudy/receiver"
	}
	if c.Keep == 0 {
		c.Keep = time.Hour
	}
	if c.MaxPoints == 0 {
		c.MaxPoints = 10000
	}
	if c.Keep < 0 || c.MaxPoints < 0 || c.MaxBytes < 0 {
		return c, fmt.Errorf("keep %v, max_points %d, max_bytes %d: none may be negative", c.Keep, c.MaxPoints, c.MaxBytes)
	}
	return c, nil
}
