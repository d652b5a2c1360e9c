package pki

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// TestCommandsByRootKeepNoReceiverOut: a receiver runs as a user of its own, and whoever makes tokens, issues and revokes beside the
// CA is root. What the commands leave in the CA's folder and the receiver's is that user's.
func TestCommandsByRootKeepNoReceiverOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	const user = 65534
	ca, host := filepath.Join(t.TempDir(), "ca"), t.TempDir()
	if err := Init(ca, "lab", false); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{ca, host} {
		give := func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = os.Chown(path, user, user)
			}
			return err
		}
		if err := filepath.WalkDir(dir, give); err != nil {
			t.Fatal(err)
		}
	}
	a, err := OpenAuthority(ca)
	if err != nil {
		t.Fatal(err)
	}
	token := a.invited(t, "web1", time.Hour)
	if _, err := a.enroll(t, token, "web1"); err != nil {
		t.Fatal(err)
	}
	if err := Issue(ca, "vault", wire.RoleTarget, 0, host); err != nil {
		t.Fatal(err)
	}
	if err := Reissue(ca, "vault", wire.RoleTarget, 0, host); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Revoke(&wire.Revoke{Name: "web1"}, "root", ""); err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, dir := range []string{ca, host} {
		owned := func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			files++
			if info.Sys().(*syscall.Stat_t).Uid != user {
				t.Errorf("%s is root's", path)
			}
			return nil
		}
		if err := filepath.WalkDir(dir, owned); err != nil {
			t.Fatal(err)
		}
	}
	if files < 10 {
		t.Errorf("only %d files were looked at", files)
	}
}
