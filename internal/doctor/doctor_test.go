package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// folders makes a CA and a folder for each role.
func folders(t *testing.T) (source, target string) {
	t.Helper()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	source, target = filepath.Join(dir, "source"), filepath.Join(dir, "target")
	err := errors.Join(pki.Init(ca, "test", false), pki.Issue(ca, "web1", wire.RoleSource, 0, source), pki.Issue(ca, "vault", wire.RoleTarget, 0, target))
	if err != nil {
		t.Fatal(err)
	}
	return source, target
}

// receiverWhoseClockIs is a receiver on TCP, as far as the greeting, on a machine whose clock is off by a while.
func receiverWhoseClockIs(t *testing.T, off time.Duration, folder string) (addr string) {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(folder, pki.HostCertFile), filepath.Join(folder, pki.HostKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"understudy"}, ClientAuth: tls.RequireAnyClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go greet(c, off)
		}
	}()
	return l.Addr().String()
}

func greet(c net.Conn, off time.Duration) {
	defer c.Close()
	head := make([]byte, wire.HeadSize)
	if _, err := io.ReadFull(c, head); err != nil {
		return
	}
	_, n, err := wire.ParseHead(head)
	if err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, c, int64(n)); err != nil {
		return
	}
	welcome, err := wire.Append(nil, &wire.Welcome{Version: wire.MaxVersion, Host: "vault", Program: "test", Time: time.Now().Add(off)})
	if err != nil {
		return
	}
	if _, err := c.Write(welcome); err == nil {
		io.Copy(io.Discard, c)
	}
}

func find(t *testing.T, p Part, id string) Finding {
	t.Helper()
	for _, r := range p.Results {
		if r.Check == id {
			return r.Finding
		}
	}
	t.Fatalf("no check %s in %+v", id, p)
	return Finding{}
}

// TestAReceiverWhoseClockIsWrong: the handshake tells the receiver's time, and that decides.
func TestAReceiverWhoseClockIsWrong(t *testing.T) {
	for _, row := range []struct {
		name   string
		off    time.Duration
		status Status
		text   string
	}{
		{"right", 0, "", "ms"}, // ok, or a warning where nothing keeps this machine's clock
		{"a minute ahead", time.Minute, Warn, "behind that of vault"},
		{"a minute behind", -time.Minute, Warn, "ahead of that of vault"},
		{"hours ahead", 3 * time.Hour, Fail, "new certificates are refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			source, target := folders(t)
			identity := &Identity{Dir: source, Role: wire.RoleSource, Anew: "enroll"}
			way := &Way{Addr: receiverWhoseClockIs(t, row.off, target), Carrier: link.TCP, Identity: identity, Role: wire.RoleSource}
			checks := append(identity.Checks(), Check{"tcp", func(ctx context.Context) Finding { return way.Check(ctx, link.TCP) }}, Check{"clock", way.checkClock})
			p := Run(t.Context(), "agent", checks)
			if f := find(t, p, "tcp"); f.Status != OK {
				t.Fatalf("tcp: %+v", f)
			}
			f := find(t, p, "clock")
			if row.status == "" {
				if f.Status == Fail || strings.Contains(f.Text, "points have") {
					t.Errorf("clock: %+v", f)
				}
			} else if f.Status != row.status || !strings.Contains(f.Fix, "timedatectl") {
				t.Errorf("clock: %+v, want %s", f, row.status)
			}
			if !strings.Contains(f.Text, row.text) {
				t.Errorf("clock: %+v, want %q", f, row.text)
			}
		})
	}
}

// TestACheckThatHangs is left behind, and is not ok.
func TestACheckThatHangs(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	p := run(t.Context(), "x", []Check{
		{"hangs", func(context.Context) Finding { <-never; return Good("") }},
		{"after", func(context.Context) Finding { return Bad("mend it", "two\nlines") }},
	}, 20*time.Millisecond)
	if f := find(t, p, "hangs"); f.Status != Unknown || !strings.Contains(f.Text, "no answer") || f.Fix == "" {
		t.Errorf("a check that hangs found %+v", f)
	}
	if f := find(t, p, "after"); f.Status != Fail || f.Text != "two; lines" {
		t.Errorf("the check after it found %+v", f)
	}
	if err := Failed([]Part{p}); err == nil || err.Error() != "1 check failed" {
		t.Errorf("Failed: %v", err)
	}
	p.Results = p.Results[:1]
	if err := Failed([]Part{p}); err != nil {
		t.Errorf("a check that was not made counts as failed: %v", err)
	}
}

// TestUnits holds what systemctl says against what it means.
func TestUnits(t *testing.T) {
	for _, row := range []struct {
		name, shown, fix string
		status           Status
	}{
		{"well", "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\n", "", OK},
		{"not there", "LoadState=not-found\nActiveState=inactive\nUnitFileState=\n", "install", Warn},
		{"failed", "LoadState=loaded\nActiveState=failed\nUnitFileState=enabled\nResult=exit-code\n", "journalctl -u u", Fail},
		{"stopped", "LoadState=loaded\nActiveState=inactive\nUnitFileState=enabled\n", "enable --now u", Fail},
		{"not after a boot", "LoadState=loaded\nActiveState=active\nUnitFileState=disabled\n", "systemctl enable u", Warn},
		{"masked", "LoadState=masked\nActiveState=inactive\nUnitFileState=masked\n", "enable --now u", Fail},
	} {
		if f := judgeUnit("u", row.shown); f.Status != row.status || !strings.Contains(f.Fix, row.fix) {
			t.Errorf("%s: %+v", row.name, f)
		}
	}
}

// TestPrint holds what people read: what is wrong, and below it the way out.
func TestPrint(t *testing.T) {
	var b strings.Builder
	Print(&b, []Part{{Name: "agent", Results: []Result{{"kernel", Good("fine")}, {"tcp", Bad("open it", "shut")}, {"disk", NotMade("be root", "can't look")}}}})
	want := "agent\n  OK       kernel         fine\n  FAIL     tcp            shut\n                          -> open it\n  UNKNOWN  disk           can't look\n                          -> be root\n1 ok, 0 warnings, 1 failed, 1 not made\n"
	if b.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", b.String(), want)
	}
}
