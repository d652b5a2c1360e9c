package agent

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockMemory sees to it that the agent needs no page from a disk while it holds the disks frozen (lockPages). It needs
// CAP_IPC_LOCK. Without it the agent works all the same: reading from a frozen disk is possible, and what takes too long is
// ended by the guard, which does not start without being locked.
//
// It also offers the agent as the first to go when the host is out of memory, unless somebody has set that already: it goes
// before its guard, and before the applications that it is there for. It can: tracking goes on in the kernel.
func lockMemory() error {
	if ownOOMScore() == 0 {
		_ = setOOMScore(oomScore) // anybody may make it higher
	}
	return lockPages()
}

// lockPages keeps in memory what the process has touched, and what it will touch: neither its program, which may lie on a frozen
// disk, nor its data, which may be swapped out to one, is to be fetched from there. Locking all that is mapped instead would
// make real what the Go runtime only reserves, several times what it uses. What was never touched can be done without, but
// for the program: that is brought in whole, since no one can say through which page of it the next freeze will run.
func lockPages() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock pages in memory: %w; it takes CAP_IPC_LOCK, or an unlimited RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity)", err)
	}
	return lockProgram()
}

const (
	oomScoreFile = "/proc/self/oom_score_adj"
	// oomScore is in thousandths of the host's memory, or of the cgroup's, that the agent is taken to hold on top (proc(5)).
	oomScore = 200
)

// ownOOMScore is what this process has; 0 where it can't be read.
func ownOOMScore() int {
	raw, _ := os.ReadFile(oomScoreFile)
	n, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	return n
}

func setOOMScore(n int) error { return os.WriteFile(oomScoreFile, []byte(strconv.Itoa(n)), 0) }

// lockProgram brings in every page that is mapped from the program's file.
func lockProgram() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	var failed error
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc_pid_maps(5): start-end perms offset dev inode path
		line := lines.Text()
		if !strings.HasSuffix(line, " "+self) {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(line, "%x-%x ", &start, &end); err != nil {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, start, end-start, 0); errno != 0 {
			failed = fmt.Errorf("lock the agent's program in memory: %w", errno)
		}
	}
	return errors.Join(failed, lines.Err())
}
