package daemon

import (
	"io"
	"log/slog"
)

// logFormats are the values of a --log-format flag.
var logFormats = []string{"text", "json"}

// LogConfig says how a daemon logs. The zero value is text, from level info up.
type LogConfig struct {
	Format string `toml:"format" values:"text|json"`                          // text or json; default text
	Level  string `toml:"level" values:"debug|info|warn|error" reload:"true"` // debug, info, warn or error; default info
}

// NewLogger makes a logger that writes to w. An unknown format or level is an error with CodeUsage that names the nearest.
func NewLogger(w io.Writer, cfg LogConfig) (*slog.Logger, error) {
	log, _, err := NewLeveledLogger(w, cfg)
	return log, err
}

// NewLeveledLogger is NewLogger with its level, which may be changed while the daemon runs.
func NewLeveledLogger(w io.Writer, cfg LogConfig) (*slog.Logger, *slog.LevelVar, error) {
	level := new(slog.LevelVar)
	if err := cfg.level(level); err != nil {
		return nil, nil, err
	}
	opts := &slog.HandlerOptions{Level: level}
	switch cfg.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, opts)), level, nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), level, nil
	}
	return nil, nil, Exitf(CodeUsage, "unknown log format %q%s", cfg.Format, suggest(cfg.Format, logFormats))
}

// level sets l to what cfg says.
func (cfg LogConfig) level(l *slog.LevelVar) error {
	var level slog.Level
	if cfg.Level != "" {
		if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
			return Exitf(CodeUsage, "unknown log level %q%s", cfg.Level, suggest(cfg.Level, []string{"debug", "info", "warn", "error"}))
		}
	}
	l.Set(level)
	return nil
}
