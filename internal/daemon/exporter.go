package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Exporter serves a daemon's metrics at /metrics, and whether it works at /healthz, over HTTP. It only reads, and there is nobody it
// knows: what it shows is for whoever can reach its address.
type Exporter struct {
	Addr    string       // HOST:PORT, or ExporterOff
	Metrics http.Handler // answers a scrape
	Alive   func() bool  // tells whether the daemon works; it may also just not return
	Log     *slog.Logger

	retry time.Duration // 0: exporterRetry
}

// ExporterOff is the address of no exporter.
const ExporterOff = "off"

// What the exporter takes of the daemon at most.
const (
	// exporterConns is how many connections are open at once: two scrapers and a few that look.
	exporterConns = 16
	// exporterScrapes is how many pages are made at once.
	exporterScrapes = 2
	// exporterRead is how long a request may take to come, exporterWrite the answer to be made and to leave.
	exporterRead, exporterWrite = 5 * time.Second, 30 * time.Second
	exporterIdle                = 2 * time.Minute
	exporterHeader              = 8 << 10
	// exporterPatience is how long a daemon may take to say that it is alive.
	exporterPatience = 5 * time.Second
	// exporterRetry is how often a port that is taken is tried again.
	exporterRetry = 15 * time.Second
)

// CheckExporterAddr holds that an Exporter could listen at addr.
func CheckExporterAddr(addr string) error {
	if addr == ExporterOff {
		return nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return Exitf(CodeUsage, "metrics %q: it is HOST:PORT or %s: %w", addr, ExporterOff, err)
	}
	return nil
}

// Run serves until ctx ends. A port that can't be had is said once and tried again for ever: the daemon's work does not wait for
// those who watch it.
func (e *Exporter) Run(ctx context.Context) {
	if e.Addr == ExporterOff {
		return
	}
	said, retry := "", cmp.Or(e.retry, exporterRetry)
	for ctx.Err() == nil {
		err := e.listenAndServe(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			e.Log.Warn("no metrics can be had; trying again", "addr", e.Addr, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

func (e *Exporter) listenAndServe(ctx context.Context) error {
	l, err := net.Listen("tcp", e.Addr)
	if err != nil {
		return err
	}
	e.Log.Info("serving metrics", "addr", l.Addr().String())
	server := &http.Server{
		Handler:           e.handler(),
		ReadHeaderTimeout: exporterRead, ReadTimeout: exporterRead, WriteTimeout: exporterWrite, IdleTimeout: exporterIdle,
		MaxHeaderBytes: exporterHeader,
		ErrorLog:       slog.NewLogLogger(e.Log.Handler(), slog.LevelDebug), // whoever knocks must not fill the log
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err = server.Serve(&fewConns{Listener: l, places: make(chan struct{}, exporterConns)})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// handler is what may be asked for.
func (e *Exporter) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", few(exporterScrapes, e.Metrics))
	mux.Handle("GET /healthz", e.health())
	return mux
}

// health answers 200 when the daemon works and 503 when it does not, or does not say in time. The daemon is asked once at a time:
// where it hangs, so does what asked it, and no more of that must pile up.
func (e *Exporter) health() http.Handler {
	asking := make(chan struct{}, 1)
	alive := func(late <-chan time.Time) bool {
		answer := make(chan bool, 1)
		select {
		case asking <- struct{}{}:
			go func() {
				answer <- e.Alive()
				<-asking
			}()
		case <-late:
			return false
		}
		select {
		case alive := <-answer:
			return alive
		case <-late:
			return false
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		late := time.NewTimer(exporterPatience)
		defer late.Stop()
		if !alive(late.C) {
			http.Error(w, "the daemon hangs", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
}

// few lets n requests in at once.
func few(n int, h http.Handler) http.Handler {
	places := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			h.ServeHTTP(w, r)
		default:
			http.Error(w, "busy with others that ask the same", http.StatusServiceUnavailable)
		}
	})
}

// fewConns accepts a connection when one of its places is free; those that wait, wait in the kernel.
type fewConns struct {
	net.Listener
	places chan struct{}
}

// Accept implements net.Listener. It ends with the listener only when a place is free, which the limits of time see to.
func (l *fewConns) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placedConn{Conn: c, places: l.places}, nil
}

type placedConn struct {
	net.Conn
	places chan struct{}
	once   sync.Once
}

// Close implements net.Conn.
func (c *placedConn) Close() error {
	c.once.Do(func() { <-c.places })
	return c.Conn.Close()
}
