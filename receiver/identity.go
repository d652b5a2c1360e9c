package receiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/durable"
	"github.com/understudy-dr/understudy/internal/wire"
)

// A server that was cloned brings its certificate and its disks' ids along: by these alone, the copy of one disk would be
// written by two machines in turn. Two things tell them apart:
//
//   - the machine: a digest of the hardware's own id. It stays over reboots; a clone has another one. The first that opens
//     a disk owns it, and any other is refused.
//   - the boots, where the hardware has no id: one machine never goes back to a boot that it has left. If one comes back
//     after a later one, there are two machines (or one that was rolled back to a snapshot of its memory), and nobody here
//     can tell which of them is right: both are refused.
//
// An operator's accept ends either: whichever opens the disk next owns it.

const (
	identityFile    = "identity.json"
	identityVersion = 1

	// maxBoots is how many boots are remembered: 32 bytes each in a file that is written once a boot.
	maxBoots = 256
)

// identity is what is known of the machine that a disk belongs to. It lies beside the journal.
type identity struct {
	Version int            `json:"version"`
	Machine block.Digest   `json:"machine"` // zero: not known
	Boots   []block.DiskID `json:"boots"`   // in the order in which they were first seen, newest last
	Clash   *identityClash `json:"clash,omitempty"`
}

// identityClash is a boot that came back after a later one.
type identityClash struct {
	Boot block.DiskID `json:"boot"`
	Time time.Time    `json:"time"`
}

// loadIdentity reads the identity of the disk in dir; none yet is the zero one.
func loadIdentity(dir string) (identity, error) {
	id := identity{Version: identityVersion}
	path := filepath.Join(dir, identityFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(raw, &id); err != nil || id.Version < 1 {
		return id, fmt.Errorf("%s is damaged (%v): put it back from a backup, or remove it and the next machine of its host that opens the disk owns it", path, err)
	}
	if id.Version > identityVersion {
		return id, fmt.Errorf("%s is of version %d: %w; install the release that wrote it", path, id.Version, block.ErrVersion)
	}
	return id, nil
}

// store replaces the file so that a crash leaves the old or the new one.
func (id identity) store(dir string) error {
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, identityFile), append(raw, '\n'), 0o600)
}

// admit says what of id changes when a source with this machine and boot opens the disk, or why it may not.
func (id identity) admit(machine block.Digest, boot block.DiskID) (next identity, changed bool, err error) {
	next = id
	next.Boots = slices.Clone(id.Boots)
	none := block.DiskID{}
	at := slices.Index(id.Boots, boot)
	switch {
	case id.Machine != block.Digest{} && machine != block.Digest{} && machine != id.Machine:
		return id, false, errOtherMachine
	case id.Clash != nil:
		return id, false, errClash
	case boot != none && at >= 0 && at < len(id.Boots)-1:
		next.Clash = &identityClash{Boot: boot, Time: time.Now().UTC()}
		return next, true, errClash
	}
	if id.Machine == (block.Digest{}) && machine != (block.Digest{}) {
		next.Machine, changed = machine, true
	}
	if boot != none && at < 0 {
		next.Boots, changed = append(next.Boots, boot), true
		if n := len(next.Boots); n > maxBoots {
			next.Boots = next.Boots[n-maxBoots:]
		}
	}
	return next, changed, nil
}

// Why a machine is refused.
var (
	errOtherMachine = errors.New("another machine")
	errClash        = errors.New("two machines")
)

// admit holds that the source is the machine that the disk belongs to. With remember, which is for the source that has the
// disk to itself, it notes what it learned; a clash it notes in any case.
func (r *replica) admit(open *wire.Open, remember bool) error {
	why := r.identify(open, remember)
	switch {
	case errors.Is(why, errOtherMachine):
		return wire.Errorf(wire.CodeForbidden, "disk %s is that of another machine of this name: on a clone, make it a host of its own (understudy-agent identity new, "+
			"and a certificate of another name); if the hardware was replaced, an operator says so (understudy accept %v)", r.name(), open.Disk)
	case errors.Is(why, errClash):
		if !remember { // whoever it is has the disk open; with remember it is this one itself
			r.evict()
		}
		return wire.Errorf(wire.CodeForbidden, "two machines take turns as the source of disk %s (or one was rolled back to a snapshot of its memory), so neither is trusted: "+
			"on the clone, understudy-agent identity new and a certificate of another name; then an operator: understudy accept %v", r.name(), open.Disk)
	case why != nil:
		return storageError(fmt.Errorf("remember the machine of disk %v: %w", open.Disk, why))
	}
	return nil
}

func (r *replica) identify(open *wire.Open, remember bool) error {
	r.metaMu.Lock()
	defer r.metaMu.Unlock()
	next, changed, why := r.identity.admit(open.Machine, open.Boot)
	if !changed || why == nil && !remember {
		return why
	}
	if err := next.store(r.dir); err != nil {
		return errors.Join(why, err)
	}
	r.identity = next
	return why
}

// acceptReport answers an accept.
type acceptReport struct {
	Disk block.DiskID `json:"disk"`
	Name string       `json:"name"`
}

// accept forgets which machine the disk belongs to: the next that opens it owns it.
func (r *Receiver) accept(rep *replica) (any, error) {
	if host := rep.source(); host != "" {
		return nil, wire.Errorf(wire.CodeBusy, "%s is being replicated by an agent on %s now: stop that one first, or there is nothing to accept", rep.name(), host)
	}
	rep.metaMu.Lock()
	defer rep.metaMu.Unlock()
	fresh := identity{Version: identityVersion}
	if err := fresh.store(rep.dir); err != nil {
		return nil, err
	}
	rep.identity = fresh
	r.log.Warn("an operator had the disk taken from whichever machine of its host opens it next", "disk", rep.name())
	return acceptReport{Disk: rep.journal.Meta().Disk, Name: rep.name()}, nil
}
