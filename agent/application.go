package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Application is a program of this host, a database as a rule, that is told before a point and after it by executables: see
// hooks.go for when they run. The zero value of a field is its documented default.
type Application struct {
	Name      string            `toml:"name" zero:"none: required" doc:"in logs and in the labels of points: up to 40 of a-z, 0-9, - and _"`
	PreFreeze string            `toml:"pre_freeze" zero:"none: required" doc:"absolute path of an executable, run before the file systems are frozen"`
	PostThaw  string            `toml:"post_thaw" zero:"none: nothing to undo" doc:"the same, run after the thaw, whatever became of the point"`
	User      string            `toml:"user" zero:"the agent's own, root" doc:"who runs them"`
	Env       map[string]string `toml:"env" doc:"added to their environment; no name may begin with UNDERSTUDY_"`
	Timeout   time.Duration     `toml:"timeout" range:"100ms..5m" doc:"of each of the two"`
	OnFailure HookFailure       `toml:"on_failure" values:"crash|none" doc:"what becomes of the point when one fails: one of class crash is taken, or none"`
	Every     time.Duration     `toml:"every" range:"0s.." doc:"from one application point to the next"`
}

// HookFailure says what becomes of a point when a hook fails.
type HookFailure string

// The outcomes.
const (
	HookFailureCrash HookFailure = "crash" // a crash point is taken
	HookFailureNone  HookFailure = "none"  // none is taken; the next interval's is
)

// Limits of the hooks.
const (
	maxApplications = 16              // their names fit into a label together: see block.MaxLabelValue
	maxHookTimeout  = 5 * time.Minute // the host gets no point meanwhile
	// hookRetry is how soon an application point is tried again that failed, if Every is longer.
	hookRetry = time.Minute
)

// applicationName is what a name may be: part of a file's name, and of a label.
var applicationName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// DefaultApplication has what an application that says nothing else gets.
func DefaultApplication() Application {
	return Application{Timeout: 10 * time.Second, OnFailure: HookFailureCrash, Every: 15 * time.Minute}
}

// withDefaults validates the application and fills a copy.
func (a Application) withDefaults() (Application, error) {
	if !applicationName.MatchString(a.Name) {
		return a, fmt.Errorf("application name %q: up to 40 of a-z, 0-9, - and _", a.Name)
	}
	def := DefaultApplication()
	a.Timeout, a.Every, a.OnFailure = cmp.Or(a.Timeout, def.Timeout), cmp.Or(a.Every, def.Every), cmp.Or(a.OnFailure, def.OnFailure)
	switch {
	case a.PreFreeze == "":
		return a, fmt.Errorf("application %s has no pre_freeze: without one nothing is asked of it", a.Name)
	case a.Timeout < 100*time.Millisecond || a.Timeout > maxHookTimeout:
		return a, fmt.Errorf("application %s: timeout %v is outside of 100ms to %v", a.Name, a.Timeout, maxHookTimeout)
	case a.Every < 0:
		return a, fmt.Errorf("application %s: every %v is negative", a.Name, a.Every)
	case a.OnFailure != HookFailureCrash && a.OnFailure != HookFailureNone:
		return a, fmt.Errorf("application %s: on_failure %q is neither crash nor none", a.Name, a.OnFailure)
	}
	for key := range a.Env {
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.HasPrefix(key, "UNDERSTUDY_") {
			return a, fmt.Errorf("application %s: env %q can't be set: it is empty, has a =, or begins with UNDERSTUDY_", a.Name, key)
		}
	}
	if _, err := a.credential(); err != nil {
		return a, fmt.Errorf("application %s: %w", a.Name, err)
	}
	for _, path := range []string{a.PreFreeze, a.PostThaw} {
		if err := checkHook(path); path != "" && err != nil {
			return a, fmt.Errorf("application %s: %w", a.Name, err)
		}
	}
	return a, nil
}

// checkHook holds that a hook is an executable that none but its owner can change: the agent runs it as root.
func checkHook(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("hook %q: an absolute path is needed", path)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("hook: %w", err)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("hook %s is not executable: chmod 755 it", path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("hook %s can be changed by others than its owner: chmod 755 it", path)
	}
	return nil
}

// applicationsWithDefaults validates all of them together.
func applicationsWithDefaults(all []Application) ([]Application, error) {
	if len(all) > maxApplications {
		return nil, fmt.Errorf("%d applications: %d at most", len(all), maxApplications)
	}
	var filled []Application
	names := map[string]bool{}
	for _, a := range all {
		a, err := a.withDefaults()
		if err != nil {
			return nil, err
		}
		if names[a.Name] {
			return nil, fmt.Errorf("two applications are named %s", a.Name)
		}
		names[a.Name] = true
		filled = append(filled, a)
	}
	return filled, nil
}

// credential is the user that the hooks run as; nil is the agent's own.
func (a Application) credential() (*syscall.Credential, error) {
	if a.User == "" {
		return nil, nil
	}
	u, err := user.Lookup(a.User)
	if err != nil {
		return nil, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, errors.New("user " + a.User + " has id " + text)
		}
		ids = append(ids, uint32(id))
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}
