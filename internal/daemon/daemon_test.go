package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestExitCode(t *testing.T) {
	for _, row := range []struct {
		name string
		err  error
		want Code
	}{
		{"nil", nil, CodeOK},
		{"plain", errors.New("x"), CodeFailure},
		{"given", Exitf(CodeDifference, "differs"), CodeDifference},
		{"given, wrapped", fmt.Errorf("verify: %w", Exitf(CodeNotFound, "no disk")), CodeNotFound},
		{"interrupted", fmt.Errorf("restore: %w", context.Canceled), CodeInterrupted},
		{"in use", fmt.Errorf("x: %w", ErrInUse), CodeInUse},
		{"nobody", fmt.Errorf("x: %w", ErrNoDaemon), CodeUnreachable},
	} {
		if got := ExitCode(row.err); got != row.want {
			t.Errorf("%s: exit code %d, want %d", row.name, got, row.want)
		}
	}
	if Exit(CodeUsage, nil) != nil {
		t.Error("Exit of nil is an error")
	}
	for _, c := range codeTexts {
		if !strings.Contains(CodeTable(), fmt.Sprintf("%3d  %s", c.code, c.text)) {
			t.Errorf("code %d is not in the table", c.code)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"interval", "receiver", "state-dir", "disk"}
	for _, row := range []struct{ word, want string }{
		{"intervall", "interval"}, {"reciever", "receiver"}, {"STATE_DIR", "state-dir"}, {"disks", "disk"}, {"zzzzzz", ""}, {"x", ""},
	} {
		if got, _ := Nearest(row.word, known); got != row.want {
			t.Errorf("nearest to %q is %q, want %q", row.word, got, row.want)
		}
	}
}

func TestDistanceIsMetric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[ab]{0,6}`)
		a, b, c := word.Draw(t, "a"), word.Draw(t, "b"), word.Draw(t, "c")
		if (distance(a, b) == 0) != (a == b) || distance(a, b) != distance(b, a) {
			t.Fatalf("distance(%q,%q)=%d, back %d", a, b, distance(a, b), distance(b, a))
		}
		if distance(a, c) > distance(a, b)+distance(b, c) {
			t.Fatalf("the way by %q is shorter", b)
		}
		if distance("", a) != len(a) || distance(a, a+"z") != 1 {
			t.Fatalf("distance of %q to nothing or to one more letter is wrong", a)
		}
	})
}

func TestUnknownFlagAndCommand(t *testing.T) {
	run := func(args ...string) error {
		root := &cobra.Command{Use: "tool", SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs, RunE: UnknownCommand}
		sub := &cobra.Command{Use: "points", RunE: func(*cobra.Command, []string) error { return nil }}
		sub.Flags().String("receiver", "", "")
		root.PersistentFlags().Bool("json", false, "")
		root.AddCommand(sub)
		root.SetFlagErrorFunc(FlagError)
		root.SetArgs(args)
		return root.Execute()
	}
	for _, row := range []struct {
		name, want string
		args       []string
	}{
		{"flag", "unknown flag --reciever; did you mean --receiver?", []string{"points", "--reciever", "x"}},
		{"inherited flag", "unknown flag --jsn; did you mean --json?", []string{"points", "--jsn"}},
		{"far flag", "unknown flag --zzzzzzz; see tool points --help", []string{"points", "--zzzzzzz"}},
		{"short flag", "unknown flag -x; see tool points --help", []string{"points", "-x"}},
		{"command", `unknown command "point" for tool; did you mean points?`, []string{"point"}},
		{"no value", "flag needs an argument: --receiver", []string{"points", "--receiver"}},
	} {
		err := run(row.args...)
		if err == nil || err.Error() != row.want || ExitCode(err) != CodeUsage {
			t.Errorf("%s: %v (code %d), want %s", row.name, err, ExitCode(err), row.want)
		}
	}
	if err := run("points", "--receiver", "a:1"); err != nil {
		t.Errorf("known flag: %v", err)
	}
}

type nested struct {
	Interval time.Duration `toml:"interval"`
	Log      LogConfig     `toml:"log"`
	Disks    []struct {
		Device string        `toml:"device"`
		Every  time.Duration `toml:"every"`
	} `toml:"disk"`
}

func TestLoadConfig(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"good", "interval = \"5s\"\n[log]\nlevel = \"warn\"\n[[disk]]\ndevice = \"/dev/sda\"\n", ""},
		{"unknown at the top", "# a\n\nintervall = \"5s\"\n", "c.toml:3: unknown key intervall; did you mean interval?"},
		{"unknown in a table", "[log]\nlevel = \"info\"\nformt = \"json\"\n", "c.toml:3: unknown key log.formt; did you mean format?"},
		{"unknown in an array of tables", "[[disk]]\ndevice = \"a\"\n[[disk]]\ndevise = \"b\"\n", "c.toml:4: unknown key disk.devise; did you mean device?"},
		{"unknown far from all", "zzzzzzzzz = 1\n", "c.toml:1: unknown key zzzzzzzzz; known are disk, interval, log"},
		{"multi-line value before it", "interval = \"\"\"\n5s\"\"\"\nlg = 1\n", "c.toml:3: unknown key lg; did you mean log?"},
		{"not TOML", "interval = \n", "c.toml:1:"},
		{"wrong type", "interval = true\n", "c.toml"},
		{"duration without a unit", "[log]\nlevel = \"info\"\n[[disk]]\ndevice = \"a\"\nevery = \"1h\"\n[[disk]]\nevery = 5\n", "c.toml:7: disk.every needs a unit"},
		{"the same in other letters", "\nInterval = 5\n", "c.toml:2: interval needs a unit"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c.toml")
			if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var c nested
			err := LoadConfig(path, &c)
			if row.want == "" {
				if err != nil || c.Interval != 5*time.Second || c.Log.Level != "warn" || c.Disks[0].Device != "/dev/sda" {
					t.Fatalf("%v %+v", err, c)
				}
				return
			}
			if err == nil || !strings.HasPrefix(strings.TrimPrefix(err.Error(), filepath.Dir(path)+"/"), row.want) || ExitCode(err) != CodeUsage {
				t.Fatalf("got %v (code %d), want %s", err, ExitCode(err), row.want)
			}
		})
	}
	if err := LoadConfig(filepath.Join(t.TempDir(), "none"), &nested{}); ExitCode(err) != CodeNotFound {
		t.Errorf("missing file: %v", err)
	}
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	log, err := NewLogger(&b, LogConfig{Format: "json", Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hidden")
	log.Warn("shown", "n", 1)
	if got := b.String(); strings.Contains(got, "hidden") || !strings.Contains(got, `"msg":"shown","n":1`) {
		t.Errorf("log is %s", got)
	}
	_, err = NewLogger(io.Discard, LogConfig{Format: "jsno"})
	if err == nil || !strings.HasSuffix(err.Error(), "did you mean json?") || ExitCode(err) != CodeUsage {
		t.Errorf("unknown format: %v", err)
	}
	if _, err = NewLogger(io.Discard, LogConfig{Level: "wran"}); err == nil || !strings.HasSuffix(err.Error(), "did you mean warn?") {
		t.Errorf("unknown level: %v", err)
	}
}

func TestContextEndsOnSignal(t *testing.T) {
	ctx, stop := Context(t.Context())
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("SIGTERM did not end the context")
	}
}

func TestNotify(t *testing.T) {
	for _, socket := range []string{filepath.Join(t.TempDir(), "n"), fmt.Sprintf("@understudy-test-%d", os.Getpid())} {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		read := func() string {
			buf := make([]byte, 256)
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			return string(buf[:n])
		}
		t.Setenv("NOTIFY_SOCKET", socket)
		t.Setenv("WATCHDOG_USEC", "20000")
		t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
		n := NewNotifier()
		for _, row := range []struct {
			send func() error
			want string
		}{
			{n.Ready, "READY=1"},
			{n.Stopping, "STOPPING=1"},
			{n.Reloading, "RELOADING=1\nMONOTONIC_USEC="},
			{func() error { return n.Status("a\nb") }, "STATUS=a b"},
		} {
			if err := row.send(); err != nil {
				t.Fatal(err)
			}
			if got := read(); !strings.HasPrefix(got, row.want) {
				t.Errorf("sent %q, want %q", got, row.want)
			}
		}
		checkWatchdog(t, n, read)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := NewNotifier().Ready(); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
	t.Setenv("WATCHDOG_PID", "1")
	if n := NewNotifier(); n.watchdog != 0 {
		t.Error("took another process's watchdog")
	}
}

func checkWatchdog(t *testing.T, n Notifier, read func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.RunWatchdog(ctx, func() bool { return true }) }()
	for range 3 {
		if got := read(); got != "WATCHDOG=1" {
			t.Errorf("watchdog sent %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestProgressLines(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, "restore")
	at := p.begun
	p.now = func() time.Time { return at }
	p.Set(0, 100<<20)
	at = at.Add(time.Second)
	p.Set(10<<20, 100<<20)
	at = at.Add(4 * time.Second)
	p.Set(50<<20, 100<<20)
	p.Set(51<<20, 100<<20)
	at = at.Add(5 * time.Second)
	p.Set(100<<20, 100<<20)
	p.Finish(nil)
	want := "restore: 50.0 MiB of 100.0 MiB (50 %), 10.0 MiB/s, 5s left\n" +
		"restore: 100.0 MiB of 100.0 MiB (100 %), 10.0 MiB/s, took 10s\n"
	if got := b.String(); !strings.HasPrefix(got, want) {
		t.Errorf("printed\n%swant\n%s", got, want)
	}
}

func TestProgressOnTerminal(t *testing.T) {
	master, slave := openPTY(t)
	p := NewProgress(slave, "restore")
	if !p.tty {
		t.Fatal("a terminal is not taken for one")
	}
	text := make(chan string)
	go func() {
		var all []byte
		buf := make([]byte, 4096)
		for !bytes.Contains(all, []byte("100 %")) {
			n, err := master.Read(buf)
			if err != nil {
				break
			}
			all = append(all, buf[:n]...)
		}
		text <- string(all)
	}()
	for i := range int64(5) {
		p.Set(i<<20, 4<<20)
		time.Sleep(60 * time.Millisecond)
	}
	p.Finish(nil)
	select {
	case got := <-text:
		if !strings.Contains(got, "restore") || !strings.Contains(got, "4.0 MiB of 4.0 MiB") {
			t.Errorf("terminal shows %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the bar never showed 100 %")
	}
}

// openPTY makes a terminal, as pts(4) says.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	size := &unix.Winsize{Row: 40, Col: 160}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
	return master, slave
}
