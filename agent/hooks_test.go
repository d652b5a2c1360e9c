package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hookSite is a folder with hooks, a log file that they write to, and the agent's side.
type hookSite struct {
	t    *testing.T
	dir  string
	said bytes.Buffer // the agent's log
	*hooks
}

// newHookSite makes applications of pairs of shell scripts. $D is the site's folder in them.
func newHookSite(t *testing.T, change func(*Application), scripts ...[2]string) *hookSite {
	t.Helper()
	s := &hookSite{t: t, dir: t.TempDir()}
	var apps []Application
	for i, pair := range scripts {
		a := Application{Name: "app" + strconv.Itoa(i), Env: map[string]string{"D": s.dir}}
		for n, path := range []*string{&a.PreFreeze, &a.PostThaw} {
			if pair[n] != "" {
				*path = s.script(fmt.Sprintf("%d-%d", i, n), pair[n])
			}
		}
		if change != nil {
			change(&a)
		}
		apps = append(apps, a)
	}
	apps, err := applicationsWithDefaults(apps)
	if err != nil {
		t.Fatal(err)
	}
	s.hooks = newHooks(apps, s.dir, slog.New(slog.NewTextHandler(&s.said, nil)))
	return s
}

func (s *hookSite) script(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// point takes a point whose cut ends so.
func (s *hookSite) point(cutErr error) (string, error) {
	s.begin(s.t.Context())
	s.thawed()
	return s.finish(cutErr)
}

// wrote is what the hooks have written to a file of the site.
func (s *hookSite) wrote(name string) string {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *hookSite) marks() []string {
	var names []string
	entries, _ := os.ReadDir(filepath.Join(s.dir, "hooks"))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestHooksRunAroundThePoint: both hooks run, with what they are told and nothing else, and the mark lies between them.
func TestHooksRunAroundThePoint(t *testing.T) {
	t.Setenv("SECRET", "of the agent")
	pair := [2]string{
		`[ -e $D/hooks/$UNDERSTUDY_APPLICATION ] || exit 1; env >>$D/env; pwd >>$D/env; echo $UNDERSTUDY_HOOK $UNDERSTUDY_APPLICATION >>$D/log`,
		`[ -e $D/hooks/$UNDERSTUDY_APPLICATION ] || exit 1; echo $UNDERSTUDY_HOOK $UNDERSTUDY_APPLICATION >>$D/log`,
	}
	s := newHookSite(t, nil, pair, pair)
	s.begin(t.Context())
	if got := s.marks(); !slices.Equal(got, []string{"app0", "app1"}) {
		t.Errorf("marked between the hooks: %v", got)
	}
	if log := s.wrote("log"); strings.Count(log, "pre-freeze app") != 2 || strings.Contains(log, "post") {
		t.Errorf("before the freeze: %q", log)
	}
	s.thawed()
	s.thawed()
	names, err := s.finish(nil)
	if names != "app0,app1" || err != nil {
		t.Errorf("names %q, %v\n%s", names, err, s.said.String())
	}
	if log := s.wrote("log"); strings.Count(log, "post-thaw app0") != 1 || strings.Count(log, "post-thaw app1") != 1 {
		t.Errorf("after the thaw: %q", log)
	}
	if got := s.marks(); len(got) > 0 {
		t.Errorf("marked after the hooks: %v", got)
	}
	env := s.wrote("env")
	if strings.Contains(env, "SECRET") || !strings.Contains(env, "UNDERSTUDY_POINT_TIME=2") || !strings.Contains(env, "UNDERSTUDY_TIMEOUT_MS=10000") {
		t.Errorf("environment:\n%s", env)
	}
	// It is not due again for a quarter of an hour.
	if names, err := s.point(nil); names != "" || err != nil || strings.Count(s.wrote("log"), "pre-freeze") != 2 {
		t.Errorf("the point after: %q, %v", names, err)
	}
	if left := time.Until(s.due); left < 14*time.Minute || left > 15*time.Minute {
		t.Errorf("due in %v", left)
	}
	if st := s.Status(); st[1].Point.IsZero() || st[1].Error != "" {
		t.Errorf("status %+v", st)
	}
}

// TestHookFails: whichever hook fails, the point is no application's, the second hook runs all the same, and it is tried
// again sooner.
func TestHookFails(t *testing.T) {
	post := `echo post >>$D/log`
	for _, row := range []struct {
		name      string
		pair      [2]string
		onFailure HookFailure
		cut       error
		want      string // of the error
		shown     string
	}{
		{"pre", [2]string{"exit 3", post}, "", nil, "", "pre-freeze: exit status 3"},
		{"pre, none", [2]string{"exit 3", post}, HookFailureNone, nil, "no recovery point", "exit status 3"},
		{"post", [2]string{"exit 0", post + "; exit 4"}, "", nil, "", "post-thaw: exit status 4"},
		{"post, none", [2]string{"exit 0", post + "; exit 4"}, HookFailureNone, nil, "no recovery point", "exit status 4"},
		{"killed", [2]string{"kill -9 $$", post}, "", nil, "", "signal: killed"},
		{"cut", [2]string{"exit 0", post}, "", errBusy, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newHookSite(t, func(a *Application) {
				if a.Name == "app1" {
					a.OnFailure = row.onFailure
				}
			}, [2]string{"exit 0", ""}, row.pair)
			names, err := s.point(row.cut)
			if names != "" || (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("names %q, %v", names, err)
			}
			if s.wrote("log") != "post\n" {
				t.Errorf("the second hook wrote %q", s.wrote("log"))
			}
			if st := s.Status()[1]; !strings.Contains(st.Error, row.shown) || (row.shown == "") != (st.Error == "") || !st.Point.IsZero() {
				t.Errorf("status %+v", st)
			}
			if left := time.Until(s.due); left < 50*time.Second || left > time.Minute {
				t.Errorf("due in %v", left)
			}
		})
	}
}

// TestFailedCutAlsoEndsHooks: without the thaw, finish runs the second hooks.
func TestFailedCutAlsoEndsHooks(t *testing.T) {
	s := newHookSite(t, nil, [2]string{"exit 0", "echo post >>$D/log"})
	ctx, cancel := context.WithCancel(t.Context())
	s.begin(ctx)
	cancel() // the agent is told to stop
	if names, _ := s.finish(errors.New("freeze failed")); names != "" || s.wrote("log") != "post\n" {
		t.Errorf("names %q, log %q", names, s.wrote("log"))
	}
}

func gone(t *testing.T, pid string) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
	return err != nil || strings.Contains(string(text), ") Z ")
}

// TestHookOverruns: it is killed with what it has started.
func TestHookOverruns(t *testing.T) {
	s := newHookSite(t, func(a *Application) { a.Timeout = 500 * time.Millisecond },
		[2]string{"sleep 90 & echo $! >$D/child; sleep 90", "echo post >>$D/log"})
	if names, err := s.point(nil); names != "" || err != nil {
		t.Errorf("names %q, %v", names, err)
	}
	if st := s.Status()[0]; !strings.Contains(st.Error, "no end within 500ms: killed") || s.wrote("log") != "post\n" {
		t.Errorf("status %+v, log %q", st, s.wrote("log"))
	}
	for deadline := time.Now().Add(20 * time.Second); !gone(t, s.wrote("child")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its child lives")
		}
	}
}

// TestHookLeavesAHelper: a helper in the background may hold the output open, and lives on until the second hook ends it.
func TestHookLeavesAHelper(t *testing.T) {
	s := newHookSite(t, nil, [2]string{"sleep 90 & echo $! >$D/child; echo started", "kill $(cat $D/child)"})
	s.begin(t.Context())
	pid, err := strconv.Atoi(strings.TrimSpace(s.wrote("child")))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the helper is gone between the hooks: %v", err)
	}
	s.thawed()
	if names, err := s.finish(nil); names != "app0" || err != nil {
		t.Errorf("names %q, %v\n%s", names, err, s.said.String())
	}
	for deadline := time.Now().Add(20 * time.Second); !gone(t, s.wrote("child")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the helper lives")
		}
	}
	if !strings.Contains(s.said.String(), "started") {
		t.Errorf("its words are not in the log:\n%s", s.said.String())
	}
}

// TestHookSaysTooMuch: what it says is bounded, and it is not held up by it.
func TestHookSaysTooMuch(t *testing.T) {
	s := newHookSite(t, nil, [2]string{"head -c 3000000 /dev/zero; echo >&2; yes 0123456789 | head -c 3000000", ""})
	if names, err := s.point(nil); names != "app0" || err != nil {
		t.Errorf("names %q, %v", names, err)
	}
	if n := s.said.Len(); n > 10<<10 || !strings.Contains(s.said.String(), "bytes=6000001") {
		t.Errorf("%d bytes of log:\n%.500s", n, s.said.String())
	}
}

// TestHooksAfterAKill: the marks that a killed agent left have the second hooks run, once.
func TestHooksAfterAKill(t *testing.T) {
	pair := [2]string{"exit 0", "echo post $UNDERSTUDY_APPLICATION >>$D/log; [ $UNDERSTUDY_APPLICATION != app1 ]"}
	s := newHookSite(t, nil, pair, pair, pair)
	for _, a := range []string{"app0", "app1", "gone"} {
		if err := s.mark(Application{Name: a}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Fields(strings.ReplaceAll(s.wrote("log"), "post ", ""))
	slices.Sort(lines)
	if !slices.Equal(lines, []string{"app0", "app1"}) || len(s.marks()) > 0 {
		t.Errorf("ran %v, marks left %v", lines, s.marks())
	}
	if !strings.Contains(s.said.String(), "no longer configured") {
		t.Errorf("log:\n%s", s.said.String())
	}
}

// TestHookWithoutAMark: where no mark can be stored no hook is started.
func TestHookWithoutAMark(t *testing.T) {
	s := newHookSite(t, nil, [2]string{"echo pre >>$D/log", "echo post >>$D/log"})
	if err := os.WriteFile(filepath.Join(s.dir, "hooks"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := s.point(nil); names != "" || err != nil || s.wrote("log") != "" {
		t.Errorf("names %q, %v, log %q", names, err, s.wrote("log"))
	}
}

func TestHookUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run a hook as another user")
	}
	s := newHookSite(t, func(a *Application) { a.User = "nobody" }, [2]string{"id -un; id -Gn", ""})
	for dir := s.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names, err := s.point(nil)
	if names != "app0" || err != nil || !strings.Contains(s.said.String(), "line=nobody") || !strings.Contains(s.said.String(), "line=nogroup") {
		t.Errorf("names %q, %v\n%s", names, err, s.said.String())
	}
}

func TestApplicationConfig(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := Application{Name: "db", PreFreeze: file("good", 0o755)}
	for _, row := range []struct {
		name   string
		change func(*Application)
		want   string
	}{
		{"good", func(*Application) {}, ""},
		{"no name", func(a *Application) { a.Name = "" }, "application name"},
		{"path as name", func(a *Application) { a.Name = "a/b" }, "application name"},
		{"no hook", func(a *Application) { a.PreFreeze = "" }, "no pre_freeze"},
		{"relative", func(a *Application) { a.PreFreeze = "pre" }, "absolute path"},
		{"missing", func(a *Application) { a.PostThaw = "/nowhere/post" }, "no such file"},
		{"not executable", func(a *Application) { a.PreFreeze = file("plain", 0o644) }, "not executable"},
		{"folder", func(a *Application) { a.PreFreeze = dir }, "not executable"},
		{"group may write", func(a *Application) { a.PostThaw = file("open", 0o775) }, "by others than its owner"},
		{"short timeout", func(a *Application) { a.Timeout = 1 }, "timeout"},
		{"long timeout", func(a *Application) { a.Timeout = time.Hour }, "timeout"},
		{"negative every", func(a *Application) { a.Every = -1 }, "every"},
		{"on_failure", func(a *Application) { a.OnFailure = "maybe" }, "on_failure"},
		{"user", func(a *Application) { a.User = "no-such-user" }, "unknown user"},
		{"env of ours", func(a *Application) { a.Env = map[string]string{"UNDERSTUDY_HOOK": "x"} }, "env"},
		{"env with =", func(a *Application) { a.Env = map[string]string{"A=B": "x"} }, "env"},
	} {
		a := good
		row.change(&a)
		_, err := Config{Disks: []string{"/dev/x"}, Applications: []Application{a}}.withDefaults()
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	off := false
	for _, c := range []Config{
		{Disks: []string{"/dev/x"}, Applications: []Application{good, good}},
		{Disks: []string{"/dev/x"}, Applications: []Application{good}, Freeze: &off},
		{Disks: []string{"/dev/x"}, Applications: make([]Application, maxApplications+1)},
	} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	}
}
