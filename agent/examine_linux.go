package agent

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// Here is what can be asked about a host while an agent runs or does not, without changing anything: for understudy-agent doctor.

// Ground is what stands on a disk.
type Ground struct {
	Mounts []Mount  // file systems on it, in the order in which they are frozen
	Loose  []string // who may write to it all the same, a sentence each; then it gets no recovery point (Config.Unfreezable)
}

// GroundOf looks at a disk as a cut would.
func GroundOf(path string) (Ground, error) {
	var g Ground
	devs, on, err := mountsOver(path)
	if err != nil {
		return g, err
	}
	swaps, err := readSwaps()
	if err != nil {
		return g, err
	}
	g.Mounts = freezeOrder(on)
	for _, m := range g.Mounts {
		if !m.Freezable() {
			g.Loose = append(g.Loose, looseMount(m))
		}
	}
	for _, s := range swaps {
		if !slices.Contains(devs, s.dev) {
			continue
		}
		if _, placed := placeOn(deviceNumber(path), 0, s); !placed {
			g.Loose = append(g.Loose, looseSwap(s))
		}
	}
	return g, nil
}

// TryLock locks this process in memory as the agent and its guard do, and tells why it can't be. The process stays locked.
func TryLock() error { return lockPages() }

// Left is what the record of what is frozen says.
type Left struct {
	Alive    bool     // the agent that wrote it runs
	Frozen   []string // mount points that it holds frozen
	Hurrying bool     // it had the kernel hurry (rcu_expedited)
}

// LeftFrozen reads the record at path. No record, or one of an earlier boot, says that nothing is left.
func LeftFrozen(path string) (Left, error) {
	var left Left
	r, err := recordLeft(path)
	if r == nil {
		return left, err
	}
	defer r.close()
	start, state, err := processState(r.pid())
	left.Alive = err == nil && start == binary.NativeEndian.Uint64(r.page[recordStart:]) && !doomed(r.pid(), state)
	left.Hurrying = r.word(recordGrace).Load() != 0
	listed, err := r.listed()
	for i, l := range listed {
		if (*atomic.Uint32)(r.hold(i)).Load() != holdNone {
			left.Frozen = append(left.Frozen, l.Path)
		}
	}
	return left, err
}

// Expedited tells whether the kernel hurries now, whoever told it to. A kernel without the switch does not.
func Expedited() bool {
	raw, err := os.ReadFile(graceFile)
	return err == nil && strings.HasPrefix(string(raw), "1")
}
