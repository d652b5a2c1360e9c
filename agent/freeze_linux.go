package agent

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Requests of linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// errThawed: somebody thawed a file system that this freeze held: the guard, because it took too long, or an operator.
var errThawed = errors.New("a file system was thawed from outside while it was frozen: the freeze took longer than its limit")

// deviceNumber is the major:minor of a block device node, "" if path is none.
func deviceNumber(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// freezer freezes a set of mounted file systems together and thaws them, under the eye of a guard.
type freezer struct {
	guard *Guard
	files []*os.File // of the mount points, open only around a freeze, so that they can be unmounted between points
	paths []string
	held  int // files[:held] are frozen by us
}

// prepare opens the mount points, writes back what is dirty and arms the guard, so that the freeze itself has little to do.
func (f *freezer) prepare(mounts []Mount, limit time.Duration) error {
	for _, m := range mounts {
		file, err := os.Open(m.Path)
		if err != nil {
			f.release()
			return fmt.Errorf("open mount point: %w", err)
		}
		f.files = append(f.files, file)
		f.paths = append(f.paths, m.Path)
	}
	for _, file := range f.files {
		if err := unix.Syncfs(int(file.Fd())); err != nil {
			err = fmt.Errorf("sync file system at %s: %w", file.Name(), err)
			f.release()
			return err
		}
	}
	if len(f.files) == 0 {
		return nil
	}
	if err := f.guard.arm(f.paths, limit); err != nil {
		f.release()
		return err
	}
	return nil
}

// freeze stops all writes. On an error nothing is left frozen.
func (f *freezer) freeze() error {
	for i, file := range f.files {
		if err := unix.IoctlSetInt(int(file.Fd()), fiFreeze, 0); err != nil {
			f.thaw()
			return fmt.Errorf("freeze file system at %s: %w", f.paths[i], err)
		}
		f.held = i + 1
	}
	return nil
}

// thaw lets writes go on. errThawed says that they went on before.
func (f *freezer) thaw() error {
	var err error
	for _, file := range f.files[:f.held] {
		switch e := unix.IoctlSetInt(int(file.Fd()), fiThaw, 0); {
		case errors.Is(e, unix.EINVAL):
			err = errThawed
		case e != nil:
			err = e
		}
	}
	f.held = 0
	return err
}

// release disarms the guard and closes the mount points.
func (f *freezer) release() {
	if len(f.paths) > 0 {
		f.guard.disarm()
	}
	for _, file := range f.files {
		file.Close()
	}
	f.files, f.paths = f.files[:0], f.paths[:0]
}
