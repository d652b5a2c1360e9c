package link

import (
	"log/slog"
	"sync"
	"time"
)

// logLimit lets through so many lines in so long a time, and counts the others: whoever knocks on the port must not fill
// the disk with logs.
type logLimit struct {
	log *slog.Logger

	mu      sync.Mutex
	since   time.Time
	lines   int
	dropped int
}

const (
	logLines  = 20
	logPeriod = 10 * time.Second
)

func (l *logLimit) warn(msg string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.since) > logPeriod {
		if l.dropped > 0 {
			args = append(args, "dropped_before", l.dropped)
		}
		l.since, l.lines, l.dropped = now, 0, 0
	}
	l.lines++
	pass := l.lines <= logLines
	if !pass {
		l.dropped++
	}
	l.mu.Unlock()
	if pass {
		l.log.Warn(msg, args...)
	}
}
