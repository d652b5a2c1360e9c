package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestMain plays a run that is killed, where the test below asks for it.
func TestMain(m *testing.M) {
	if base := os.Getenv("DIE_IN_BED"); base != "" {
		if err := dieInBed(base); err != nil {
			fmt.Println("error", err)
		}
		return
	}
	os.Exit(m.Run())
}

func dieInBed(base string) error {
	b, err := New(base)
	if err != nil {
		return err
	}
	outer := b.Dir()
	if b, err = New(outer); err != nil { // a bed in a bed
		return err
	}
	fmt.Println(outer)
	if err := b.OnDeath("touch", base+"/rites-were-said"); err != nil {
		return err
	}
	l, err := b.Loop(context.Background(), "disk", 16<<20)
	if err != nil {
		return err
	}
	if err := Mkfs(context.Background(), l.Device, "ext4"); err != nil {
		return err
	}
	if _, err := b.Mount(l.Device, "mnt", "ext4"); err != nil {
		return err
	}
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// TestNextRunTakesAway kills a run in its mounted bed: the next one takes that away, and leaves alone the bed of one that lives.
func TestNextRunTakesAway(t *testing.T) {
	base := t.TempDir()
	alive, err := New(base)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DIE_IN_BED="+base)
	out, err := cmd.Output()
	dead := strings.TrimSpace(string(out))
	if err == nil || !strings.HasPrefix(dead, base) || len(left(t, dead)) != 3 {
		t.Fatalf("it did not die in its bed: %v, %q, left %q", err, out, left(t, dead))
	}
	next, err := New(base)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if found := left(t, dead); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
	if _, err := os.Stat(base + "/rites-were-said"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(alive.Dir()); err != nil {
		t.Errorf("the bed of a run that lives: %v", err)
	}
}
