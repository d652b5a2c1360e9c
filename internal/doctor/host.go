package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setClock is the way out of a wrong clock.
const setClock = "timedatectl set-ntp true (or chrony, ntpd); docs/OPERATING.md, When it hurts: clocks"

// Clock asks the kernel whether anything keeps its clock right (adjtimex(2), STA_UNSYNC).
func Clock(context.Context) Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return NotMade(setClock, "adjtimex: %v", err)
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return Doubtful(setClock, "the kernel's clock is not synchronised")
	}
	return Good("the kernel's clock is synchronised, to %d ms at worst", t.Maxerror/1000)
}

// Space holds that a folder can be written, and has room: a warning below few bytes, a failure below least. fix is the way
// out of too little.
func Space(dir string, few, least uint64, fix string) Finding {
	there, err := nearest(dir)
	if err != nil {
		return NotMade(asRoot, "%v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(there, &st); err != nil {
		return Bad(fix, "statfs %s: %v", there, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	text := fmt.Sprintf("%s has %s free of %s", there, Bytes(free), Bytes(st.Blocks*uint64(st.Bsize)))
	switch {
	case free < least:
		return Bad(fix, "%s: it needs %s", text, Bytes(least))
	case st.Files > 0 && st.Ffree == 0:
		return Bad(fix, "%s, and no inode", text)
	}
	switch err := tryWrite(there); {
	case errors.Is(err, fs.ErrPermission):
		return NotMade(asRoot, "%s; %v", text, err)
	case err != nil:
		return Bad(fix, "%s, and can't be written: %v", text, err)
	case free < few:
		return Doubtful(fix, "%s", text)
	}
	return Good("%s", text)
}

// nearest is the folder, or the one in which it will be made.
func nearest(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	for err == nil {
		if _, err = os.Stat(dir); err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		dir, err = filepath.Dir(dir), nil
	}
	return "", err
}

// tryWrite writes a little durably, and takes it away.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// Bytes is a number of bytes for people.
func Bytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// Unit asks the service manager about a unit: is it there, does it run, and will it after a boot?
func Unit(ctx context.Context, name string) Finding {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return NotMade("see to it that whatever starts services here starts "+name, "systemd does not run here")
	}
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=LoadState,ActiveState,UnitFileState,Result", name).Output()
	if err != nil {
		return NotMade("systemctl status "+name, "systemctl show %s: %v", name, err)
	}
	return judgeUnit(name, string(out))
}

// judgeUnit reads what systemctl show printed.
func judgeUnit(name, shown string) Finding {
	v := map[string]string{}
	for line := range strings.Lines(shown) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		v[key] = value
	}
	text := fmt.Sprintf("%s is %s and %s", name, v["ActiveState"], v["UnitFileState"])
	switch {
	case v["LoadState"] == "not-found":
		return Doubtful("install the package "+name+" (docs/PACKAGING.md)", "there is no unit %s: nothing starts it after a boot", name)
	case v["ActiveState"] == "failed":
		return Bad("journalctl -u "+name+"; then systemctl restart "+name, "%s: %s", text, v["Result"])
	case v["ActiveState"] != "active":
		return Bad("systemctl enable --now "+name, "%s", text)
	case v["UnitFileState"] != "enabled" && v["UnitFileState"] != "enabled-runtime" && v["UnitFileState"] != "static":
		return Doubtful("systemctl enable "+name, "%s: it does not come back after a boot", text)
	}
	return Good("%s", text)
}
