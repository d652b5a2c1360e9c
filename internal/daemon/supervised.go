package daemon

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"sync"
	"syscall"
)

// Supervised is a daemon under a service manager: it says when the daemon is ready, that it lives, when it reads its configuration
// again (SIGHUP), and when it ends. Where there is no service manager, SIGHUP alone is left of it.
type Supervised struct {
	Log    *slog.Logger
	Alive  func() bool  // tells whether the daemon works; it may also just not return
	Reload func() error // reads the configuration again; nil: there is nothing to read

	notify Notifier
}

// Start says that the daemon is ready. Call it once Run has been called or is about to be.
func (s *Supervised) Start() { s.tell(NewNotifier().Ready()) }

// Run does the rest in the background until ctx ends or stop is called, which waits for it.
func (s *Supervised) Run(ctx context.Context) (stop func()) {
	s.notify = NewNotifier()
	ctx, cancel := context.WithCancel(ctx)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	var all sync.WaitGroup
	all.Go(func() { s.tell(s.notify.RunWatchdog(ctx, s.Alive)) })
	all.Go(func() {
		for {
			select {
			case <-hangups:
				s.reload()
			case <-ctx.Done():
				s.tell(s.notify.Stopping())
				return
			}
		}
	})
	return func() {
		cancel()
		all.Wait()
		signal.Stop(hangups)
	}
}

// reload reads the configuration again. Whatever comes of it, the daemon goes on.
func (s *Supervised) reload() {
	s.tell(s.notify.Reloading())
	if s.Reload != nil {
		if err := s.Reload(); err != nil {
			s.Log.Error("the configuration is not taken over", "err", err)
		}
	}
	s.tell(s.notify.Ready())
}

// tell logs that the service manager can't be told; the daemon works without.
func (s *Supervised) tell(err error) {
	if err != nil {
		s.Log.Warn("the service manager does not hear", "err", err)
	}
}

// NewReload makes what reads the configuration file at path again. The level of the log is taken over at once; what else has
// changed since the start is said to need a restart. T is the file's struct, and part its part about logs. nil where there is no file.
func NewReload[T any](path string, log *slog.Logger, level *slog.LevelVar, part func(*T) *LogConfig) func() error {
	if path == "" {
		return nil
	}
	read := func() (*T, LogConfig, error) {
		c := new(T)
		if err := LoadConfig(path, c); err != nil {
			return nil, LogConfig{}, err
		}
		said := *part(c)
		part(c).Level = ""
		return c, said, nil
	}
	first, _, err := read()
	return func() error {
		if err != nil {
			return err
		}
		now, said, err := read()
		if err != nil {
			return err
		}
		if err := said.level(level); err != nil {
			return err
		}
		log.Info("read the configuration again", "file", path, "level", level.Level().String())
		if !reflect.DeepEqual(first, now) {
			log.Warn("more than the level of the log has changed: restart to have that", "file", path)
		}
		return nil
	}
}
