package link

import (
	"log/slog"
	"sync"
	"time"
)

// LogLimit lets so many warnings through in so long a time for each peer, and counts the others: whoever knocks on the port
// must not fill the disk with logs, nor keep what is said of others out of them. The zero value with a Log is ready.
type LogLimit struct {
	Log *slog.Logger

	mu    sync.Mutex
	peers map[string]*logged
	swept time.Time // when there was last made room
}

// logged is what was said of one peer.
type logged struct {
	since   time.Time
	lines   int
	dropped int
}

const (
	logLines  = 20
	logPeriod = 10 * time.Second
	// logPeers is of how many peers a LogLimit keeps count; all others share one count.
	logPeers = 1024
)

// Warn logs a warning about a peer, named by address or host, unless there were too many. The line that comes after the
// pause says how many were dropped.
func (l *LogLimit) Warn(peer, msg string, args ...any) {
	if pass, before := l.count(peer, time.Now()); pass {
		if before > 0 {
			args = append(args, "dropped_before", before)
		}
		l.Log.Warn(msg, args...)
	}
}

// count tells whether a line may pass, and how many were dropped before it.
func (l *LogLimit) count(peer string, now time.Time) (pass bool, before int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[peer]
	if p == nil {
		p = l.begin(peer, now)
	}
	if now.Sub(p.since) > logPeriod {
		before = p.dropped
		*p = logged{since: now}
	}
	p.lines++
	if p.lines > logLines {
		p.dropped++
		return false, 0
	}
	return true, before
}

// begin makes room for a peer. Those of whom nothing was said of late go first, unless there are lines to account for.
func (l *LogLimit) begin(peer string, now time.Time) *logged {
	if l.peers == nil {
		l.peers = map[string]*logged{}
	}
	if len(l.peers) >= logPeers && now.Sub(l.swept) > logPeriod { // not for each of many: that would be work for whoever knocks
		l.swept = now
		for name, p := range l.peers {
			if now.Sub(p.since) > logPeriod && p.dropped == 0 {
				delete(l.peers, name)
			}
		}
	}
	if len(l.peers) >= logPeers {
		peer = ""
		if p := l.peers[peer]; p != nil {
			return p
		}
	}
	p := &logged{since: now}
	l.peers[peer] = p
	return p
}
