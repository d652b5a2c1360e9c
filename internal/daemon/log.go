package daemon

import (
	"io"
	"log/slog"
)

// logFormats are the values of a --log-format flag.
var logFormats = []string{"text", "json"}

// LogConfig says how a daemon logs. The zero value is text, from level info up.
type LogConfig struct {
	Format string `toml:"format"` // text or json; default text
	Level  string `toml:"level"`  // debug, info, warn or error; default info
}

// NewLogger makes a logger that writes to w. An unknown format or level is an error with CodeUsage that names the nearest.
func NewLogger(w io.Writer, cfg LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if cfg.Level != "" {
		if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
			return nil, Exitf(CodeUsage, "unknown log level %q%s", cfg.Level, suggest(cfg.Level, []string{"debug", "info", "warn", "error"}))
		}
	}
	opts := &slog.HandlerOptions{Level: level}
	switch cfg.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, Exitf(CodeUsage, "unknown log format %q%s", cfg.Format, suggest(cfg.Format, logFormats))
}
