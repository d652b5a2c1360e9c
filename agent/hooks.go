package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// How an application point is taken. When one application is due, all take part: the class stands for all of them.
//
//  1. for each application: its mark is stored, then its pre-freeze hook runs                  (in parallel)
//  2. the group's cut: sync, freeze, swap, read, thaw (checkpoint.go)
//  3. for each application whose hook was started: its post-thaw hook runs, then its mark goes  (in parallel)
//  4. the seal: class application if every hook of 1 and 3 ended with status 0, and the cut held
//
// 3 follows 1 whatever happened in between: a hook that failed or was killed, a freeze that failed, a link that broke. The hooks
// of 3 begin right after the thaw, before anything is sent. That they succeed too is asked because only they can tell whether
// what 1 set up was still there: a lock may have run out of its time before the freeze.
//
// An agent that is killed between 1 and 3 leaves the marks, and its next start runs 3. A mark is older than its hook: so no hook
// that was started lacks one.
type hooks struct {
	apps []Application
	dir  string // of the marks
	log  *slog.Logger

	due time.Time // of the next application point
	run *hookRun  // the point that is being taken, if it is one

	mu     sync.Mutex
	status []ApplicationStatus

	counts map[hookKey]*hookCounts // the map does not change
}

// errHook: a hook failed, and no point is taken without it.
var errHook = errors.New("hook failed")

// ApplicationStatus is what the operator sees of an application.
type ApplicationStatus struct {
	Name  string    `json:"name"`
	Point time.Time `json:"last_point,omitzero"` // the newest one that all its hooks succeeded for
	Error string    `json:"error,omitempty"`     // why the last one failed
}

// hookRun is one application point.
type hookRun struct {
	at      time.Time
	started []bool  // by application: its first hook, so the second must follow
	errs    []error // by application
	post    sync.WaitGroup
	thawed  sync.Once
}

// newHooks starts nothing.
func newHooks(apps []Application, stateDir string, log *slog.Logger) *hooks {
	h := &hooks{apps: apps, dir: filepath.Join(stateDir, "hooks"), log: log, counts: map[hookKey]*hookCounts{}}
	for _, a := range apps {
		h.status = append(h.status, ApplicationStatus{Name: a.Name})
		for _, which := range hookNames {
			h.counts[hookKey{a.Name, which}] = newHookCounts()
		}
	}
	return h
}

// recover runs the post-thaw hook of every application that an agent before this one left between its hooks.
func (h *hooks) recover(ctx context.Context) error {
	entries, err := os.ReadDir(h.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for hooks that were cut off: %w", err)
	}
	left := map[string]bool{}
	for _, e := range entries {
		left[e.Name()] = true
	}
	var all sync.WaitGroup
	for _, a := range h.apps {
		if !left[a.Name] {
			continue
		}
		delete(left, a.Name)
		h.log.Warn("the agent ended between an application's hooks: running the second now", "application", a.Name)
		all.Go(func() {
			if h.runPost(ctx, a, time.Now()) != nil {
				_ = h.unmark(a) // once is enough: what it could not undo now it will not undo at the next start
			}
		})
	}
	all.Wait()
	for name := range left {
		h.log.Warn("the agent ended between the hooks of an application that is no longer configured: see that it is not left locked", "application", name)
		_ = os.Remove(filepath.Join(h.dir, name)) // it is named once more otherwise
	}
	return nil
}

// begin does step 1 if an application point is due. It may take as long as the longest time limit.
func (h *hooks) begin(ctx context.Context) {
	if h.run = nil; len(h.apps) == 0 || time.Now().Before(h.due) {
		return
	}
	run := &hookRun{at: time.Now(), started: make([]bool, len(h.apps)), errs: make([]error, len(h.apps))}
	h.run = run
	var all sync.WaitGroup
	for i, a := range h.apps {
		all.Go(func() {
			if run.errs[i] = h.mark(a); run.errs[i] == nil {
				run.started[i] = true
				run.errs[i] = h.call(ctx, a, preFreeze, a.PreFreeze, run.at)
			}
		})
	}
	all.Wait()
}

// thawed does step 3 in the background, once: the cut is over, or there will be none.
func (h *hooks) thawed() {
	run := h.run
	if run == nil {
		return
	}
	run.thawed.Do(func() {
		for i, a := range h.apps {
			if !run.started[i] {
				continue
			}
			run.post.Go(func() {
				// The hook runs also when the agent is told to stop.
				run.errs[i] = errors.Join(run.errs[i], h.runPost(context.Background(), a, run.at))
			})
		}
	})
}

// finish waits for step 3 and tells what the point is: one of the applications in names, none at all where err says so, or
// what it would have been without hooks.
func (h *hooks) finish(cutErr error) (names string, err error) {
	run := h.run
	if run == nil {
		return "", nil
	}
	h.thawed()
	run.post.Wait()
	h.run = nil
	every, all := h.apps[0].Every, []string{}
	for i, a := range h.apps {
		every = min(every, a.Every)
		all = append(all, a.Name)
		if run.errs[i] != nil && a.OnFailure == HookFailureNone {
			err = fmt.Errorf("application %s: %w, and its on_failure is none: no recovery point", a.Name, errHook)
		}
	}
	if failed := errors.Join(run.errs...); failed != nil || cutErr != nil {
		h.due = run.at.Add(min(every, hookRetry))
		h.show(run, cutErr)
		return "", err
	}
	h.due = run.at.Add(every)
	h.show(run, nil)
	return strings.Join(all, ","), nil
}

// show keeps what the operator sees.
func (h *hooks) show(run *hookRun, cutErr error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.apps {
		s := &h.status[i]
		if s.Error = ""; run.errs[i] != nil {
			s.Error = run.errs[i].Error()
		} else if cutErr == nil {
			s.Point = run.at
		}
	}
}

// Status is a copy.
func (h *hooks) Status() []ApplicationStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]ApplicationStatus(nil), h.status...)
}

// runPost runs an application's post-thaw hook; where it succeeded there is nothing left to undo.
func (h *hooks) runPost(ctx context.Context, a Application, at time.Time) error {
	if a.PostThaw != "" {
		if err := h.call(ctx, a, postThaw, a.PostThaw, at); err != nil {
			return err
		}
	}
	return h.unmark(a)
}

// call runs one hook and logs what it said and whether it failed.
func (h *hooks) call(ctx context.Context, a Application, which, path string, at time.Time) error {
	began := time.Now()
	said, err := a.runHook(ctx, which, path, at)
	h.counts[hookKey{a.Name, which}].count(time.Since(began), err)
	log := h.log.With("application", a.Name, "hook", which)
	for _, line := range said.lines {
		log.Info("hook says", "line", line)
	}
	if said.bytes > hookOutputBytes || len(said.lines) == hookOutputLines {
		log.Info("hook says more", "bytes", said.bytes)
	}
	if err != nil {
		log.Warn("hook failed", "err", err, "took", time.Since(began))
		return fmt.Errorf("%s: %w", which, err)
	}
	log.Debug("hook done", "took", time.Since(began))
	return nil
}

// mark stores that an application's hooks are between the first and the second.
func (h *hooks) mark(a Application) error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("store mark: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(h.dir, a.Name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("store mark: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close(), h.syncMarks()); err != nil {
		return fmt.Errorf("store mark: %w", err)
	}
	return nil
}

// unmark forgets the mark.
func (h *hooks) unmark(a Application) error {
	if err := os.Remove(filepath.Join(h.dir, a.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mark: %w", err)
	}
	return nil
}

func (h *hooks) syncMarks() error {
	d, err := os.Open(h.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
