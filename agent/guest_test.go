package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
)

// Some layouts need a machine of their own: one whose / may freeze, one that has LVM and md. They run in a guest: a
// user-mode Linux, whose first process is this test binary, and which reports on its console.

// guestVariable comes from the guest's command line: the kernel hands what it does not know to the first process.
const guestVariable = "understudy_guest"

// guest is the first process of a guest.
func guest(what string) {
	err := guestMount()
	if err == nil {
		err = map[string]func() error{"root": guestRoot, "layouts": guestLayouts}[what]()
	}
	if err != nil {
		fmt.Println("guest: FAILED:", err)
	} else {
		fmt.Println("guest: passed")
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func guestMount() error {
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}} {
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	return os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
}

// guestRoot freezes / itself, which holds the agent's binary, its log and all there is.
func guestRoot() error {
	for _, d := range deaths {
		var err error
		for range 3 { // as in dieInTime
			if err = dieOnRoot(d); !errors.Is(err, errTooLate) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

var errTooLate = errors.New("thawed too late")

func dieOnRoot(d death) error {
	cmd, said, err := startVictim(d.how, "/", d.budget, nowhere)
	if err != nil {
		return err
	}
	if d.budget == time.Hour {
		// The freeze holds until the victim's end.
		written := make(chan error, 1)
		if d.how == "wait" {
			go func() { written <- os.WriteFile("/before", []byte("x"), 0o600) }()
			select {
			case <-written:
				return errors.New("/ is not frozen: this proves nothing")
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	if err := d.finish(cmd); err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile("/after", []byte("x"), 0o600) }()
	select {
	case err := <-written:
		if err != nil {
			return err
		}
	case <-time.After(30 * time.Second):
		return fmt.Errorf("/ is still frozen: %s", said)
	}
	after, limit, err := guardStamp(said)
	if err != nil {
		return err
	}
	fmt.Printf("guest: %s: / was thawed %v after the freeze began (limit %v)\n", d.name, after, limit)
	if after > within(d.budget) {
		return fmt.Errorf("%w: after %v, %v allowed", errTooLate, after, within(d.budget))
	}
	cmd.Process.Kill()
	cmd.Wait()
	return nil
}

// guestRun runs a tool of the system.
func guestRun(line string) error {
	out, err := exec.Command("sh", "-ec", line).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// layoutScript makes, of seven disks: a volume group over two, with a volume that needs both and is mounted twice and bound once;
// a mirror of two, with a volume group on top; one disk mapped into two halves by device mapper, of which one is mounted, and
// one with a file system of its own, and one that is swap; the mirror holds a swap file too.
const layoutScript = `
mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /mnt
mkdir -p /tmp/um/lib/modules; mount -t hostfs -o /usr/lib/uml/modules none /tmp/um/lib/modules
for m in dm-mod raid1; do modprobe -d /tmp/um $m; done
export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
lvm() { command lvm "$@" --config 'devices { use_devicesfile=0 dir="/dev" scan=["/dev"] types=["ubd",16,"md",16] } activation { udev_sync=0 udev_rules=0 } backup { backup=0 archive=0 } global { locking_dir="/run/lvm-lock" }'; }
lvm pvcreate -q /dev/ubda /dev/ubdb; lvm vgcreate -q two /dev/ubda /dev/ubdb; lvm lvcreate -q -y -Zn -Wn -l 100%FREE -n both two
mdadm -q --create /dev/md0 --run --metadata=1.2 --level=1 --raid-devices=2 --assume-clean /dev/ubdc /dev/ubdd
lvm pvcreate -q /dev/md0; lvm vgcreate -q mirror /dev/md0; lvm lvcreate -q -y -Zn -Wn -l 100%FREE -n vol mirror
echo 0 65536 linear /dev/ubde 0 | dmsetup create low; echo 0 65536 linear /dev/ubde 65536 | dmsetup create high
dmsetup mknodes
mkdir /mnt/both /mnt/again /mnt/bound /mnt/mirror /mnt/low /mnt/plain
for d in two-both mirror-vol low; do mkfs.ext4 -q /dev/mapper/$d; done
mkfs.xfs -q -f /dev/ubdf || mkfs.ext4 -q /dev/ubdf
mount /dev/mapper/two-both /mnt/both; mount /dev/mapper/two-both /mnt/again; mkdir /mnt/both/sub; mount --bind /mnt/both/sub /mnt/bound
mount /dev/mapper/mirror-vol /mnt/mirror; mount /dev/mapper/low /mnt/low
mount /dev/ubdf /mnt/plain
mkswap -q /dev/ubdg; swapon /dev/ubdg
dd if=/dev/zero of=/mnt/mirror/swap bs=1M count=8 status=none; chmod 600 /mnt/mirror/swap; mkswap -q /mnt/mirror/swap; swapon /mnt/mirror/swap
`

// guestLayouts finds and freezes what stands on LVM, md and plain disks.
func guestLayouts() error {
	if err := guestRun(layoutScript); err != nil {
		return err
	}
	onDisk := map[string][]string{
		"/dev/ubda": {"/mnt/both"}, "/dev/ubdb": {"/mnt/both"}, "/dev/ubdc": {"/mnt/mirror"}, "/dev/ubdd": {"/mnt/mirror"},
		"/dev/ubde": {"/mnt/low"}, "/dev/ubdf": {"/mnt/plain"},
	}
	if err := guestSwaps(); err != nil {
		return err
	}
	var all []string
	for disk, want := range onDisk {
		devs, on, err := mountsOver(disk)
		if err != nil {
			return err
		}
		if got := pathsOf(on); !slices.Equal(got, want) {
			return fmt.Errorf("on %s (with %v) are %v, not %v", disk, devs, got, want)
		}
		all = append(all, devs...)
	}
	mounts, err := together(all)
	if err != nil {
		return err
	}
	if got, want := pathsOf(mounts), []string{"/mnt/plain", "/mnt/low", "/mnt/mirror", "/mnt/both"}; !slices.Equal(got, want) {
		return fmt.Errorf("to be frozen are %v, not %v: the last mounted first, each once", got, want)
	}
	g, err := StartGuard("/proc/self/exe", guardProgram) // what its path leads to is covered by now
	if err != nil {
		return err
	}
	defer g.Close()
	f := freezer{guard: g, limit: time.Minute}
	if err := errors.Join(f.prepare(mounts), f.sync(), f.freeze()); err != nil { // freezing one twice is EBUSY
		return err
	}
	everywhere := []string{"/mnt/both", "/mnt/again", "/mnt/bound", "/mnt/mirror", "/mnt/low", "/mnt/plain"}
	written := make(chan string, len(everywhere))
	for _, dir := range everywhere {
		go func() {
			if err := os.WriteFile(dir+"/file", []byte(dir), 0o600); err == nil {
				written <- dir
			}
		}()
	}
	select {
	case dir := <-written:
		return fmt.Errorf("%s could be written to while all was frozen", dir)
	case <-time.After(500 * time.Millisecond):
	}
	if err := f.thaw(); err != nil {
		return err
	}
	f.release()
	for range everywhere {
		select {
		case <-written:
		case <-time.After(20 * time.Second):
			return errors.New("a write that waited did not go on after the thaw")
		}
	}
	fmt.Println("guest: frozen together:", pathsOf(mounts))
	return nil
}

// guestSwaps finds the swap of a disk that is nothing else, which is left out of the count of writes, and a swap file, which
// can't be.
func guestSwaps() error {
	swaps, err := readSwaps()
	if err != nil {
		return err
	}
	for path, want := range map[string]string{"/dev/ubdg": "", "/dev/ubdc": "/mnt/mirror/swap", "/dev/ubda": ""} {
		d := &disk{path: path}
		if d.opened, err = lookAtDevice(path); err != nil {
			return err
		}
		d.tracker = newMarkedByHand(d.opened.size)
		d.set, d.pump = capture.NewSet(d.tracker), &pump{size: d.opened.size}
		devs, err := devicesAbove(d.opened.number)
		if err != nil {
			return err
		}
		if loose := ignoreSwap(d, devs, swaps); (loose == "") != (want == "") || !strings.Contains(loose, want) {
			return fmt.Errorf("the swap of %s: %q, want %q of %v", path, loose, want, swaps)
		}
		d.tracker.(*markedByHand).mark(5)
		if n, err := d.set.Take(); err != nil || (n == 0) != (path == "/dev/ubdg") {
			return fmt.Errorf("%s: %d marks count, %w", path, n, err)
		}
	}
	return nil
}

func pathsOf(mounts []Mount) (paths []string) {
	for _, m := range mounts {
		paths = append(paths, m.Path)
	}
	return paths
}

// buildGuest builds this test binary for a guest: static, and without the race detector, whose libraries a guest may lack.
func buildGuest(t *testing.T, path string) {
	t.Helper()
	cmd := exec.Command("go", "test", "-c", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest's program: %v\n%s", err, out)
	}
}

// boot runs a guest to its end and returns what it printed.
func boot(t *testing.T, dir, what string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	argv := append([]string{
		"mem=512M", "con=null", "con0=null,fd:1", "uml_dir=" + dir, "umid=guest", "quiet", "noreboot", guestVariable + "=" + what,
	}, args...)
	cmd := exec.CommandContext(ctx, "linux.uml", argv...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its threads, should they have outlived it
	}
	if !strings.Contains(string(out), "guest: passed") {
		t.Fatalf("the guest did not pass: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "guest: ") {
			t.Log(strings.TrimSpace(line))
		}
	}
	return string(out)
}

// TestTheGuardThawsTheRoot: the frozen file system is /, which holds the agent's and the guard's program, and the agent's log.
func TestTheGuardThawsTheRoot(t *testing.T) {
	dir := scratch(t)
	root := filepath.Join(dir, "root")
	for _, d := range []string{"proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(root, "dev/console"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1))); err != nil {
		t.Fatal(err)
	}
	buildGuest(t, filepath.Join(root, "init"))
	image := filepath.Join(dir, "root.img")
	tool(t, "mke2fs", "-q", "-t", "ext4", "-d", root, image, "128M")
	boot(t, dir, "root", "ubd0="+image, "root=/dev/ubda", "rw", "init=/init")
}

// TestLayouts: LVM over two disks, LVM over md, device mapper, several mounts and bind mounts of one file system.
func TestLayouts(t *testing.T) {
	dir := scratch(t)
	program := filepath.Join(t.TempDir(), "program") // the guest has a /dev of its own, and with it a /dev/shm
	buildGuest(t, program)
	args := []string{"rootfstype=hostfs", "rootflags=/", "ro", "init=" + program}
	for i := range 7 {
		image := filepath.Join(dir, fmt.Sprintf("disk%d", i))
		tool(t, "truncate", "-s", "384M", image)
		args = append(args, fmt.Sprintf("ubd%d=%s", i, image))
	}
	boot(t, dir, "layouts", args...)
}
