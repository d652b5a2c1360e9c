package receiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/durable"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/volume"
)

// dirVersion is the version of the receiver's directory that this code writes.
//
//	1: the first
const dirVersion = 1

type dirMarker struct {
	Version int `json:"version"`
}

// store is the receiver's directory: the disks it holds copies of.
type store struct {
	dir   string
	codec block.Codec
	lock  *os.File

	mu    sync.Mutex
	disks map[block.DiskID]*replica
}

// replica is the copy of one disk.
type replica struct {
	journal *journal.Journal
	vol     *volume.File
	dir     string
	changed chan struct{} // capacity 1: something was sealed, the folder should look

	// metaMu is held while a delta becomes durable, and while the generation, the rest of the meta or the identity changes.
	metaMu   sync.Mutex
	identity identity // of the machine that the disk belongs to; under metaMu

	counts replicaCounts

	mu      sync.Mutex
	holder  *holder // of the source that has the disk open, nil for none
	damaged error   // what a check of every byte found
}

// damage is why the copy is not continued, nil if all is well as far as is known.
func (r *replica) damage() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.damaged != nil {
		return r.damaged
	}
	return r.journal.Damage()
}

// openStore opens every disk in dir. It makes dir if it is not there, and refuses one that a later release wrote or that
// another receiver uses.
func openStore(dir string, codec block.Codec) (*store, error) {
	s := &store{dir: dir, codec: codec, disks: map[block.DiskID]*replica{}}
	if err := os.MkdirAll(filepath.Join(dir, "disks"), 0o700); err != nil {
		return nil, err
	}
	if err := s.lockDir(); err != nil {
		return nil, err
	}
	err := s.checkVersion()
	if err == nil {
		err = s.openDisks()
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *store) lockDir() error {
	f, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("%s is in use by another receiver", s.dir)
	}
	s.lock = f
	return nil
}

func (s *store) checkVersion() error {
	path := filepath.Join(s.dir, "receiver.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw, _ = json.Marshal(dirMarker{Version: dirVersion})
		return errors.Join(durable.Replace(path, append(raw, '\n'), 0o600), durable.SyncFolder(filepath.Dir(filepath.Clean(s.dir))))
	}
	if err != nil {
		return err
	}
	var m dirMarker
	if err := json.Unmarshal(raw, &m); err != nil || m.Version < 1 {
		return fmt.Errorf("%s is damaged (%v): put {\"version\":%d} back if this is a receiver's directory", path, err, dirVersion)
	}
	if m.Version > dirVersion {
		return fmt.Errorf("%s was written by a newer release (version %d, this one reads up to %d): %w; install that release or start on another directory",
			s.dir, m.Version, dirVersion, block.ErrVersion)
	}
	return nil
}

func (s *store) openDisks() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "disks"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, err := block.ParseDiskID(e.Name())
		if err != nil {
			continue // not ours
		}
		r, err := s.openReplica(filepath.Join(s.dir, "disks", e.Name()), nil)
		if err != nil {
			return fmt.Errorf("open the copy of disk %v: %w", id, err)
		}
		s.disks[id] = r
	}
	return nil
}

// openReplica opens the journal and volume in dir; with meta it makes them first.
func (s *store) openReplica(dir string, meta *journal.Meta) (*replica, error) {
	if meta != nil {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	var size block.Size
	if meta != nil {
		size = meta.Size
	}
	vol, err := volume.OpenFile(filepath.Join(dir, "volume.raw"), meta != nil, size)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	opt := journal.Options{Codec: s.codec, Volume: vol}
	var j *journal.Journal
	if meta != nil {
		j, err = journal.Create(dir, *meta, opt)
	} else {
		j, err = journal.Open(dir, opt)
	}
	if err != nil {
		vol.Close()
		return nil, err
	}
	id, err := loadIdentity(dir)
	if err != nil {
		return nil, errors.Join(err, j.Close(), vol.Close())
	}
	r := &replica{journal: j, vol: vol, dir: dir, changed: make(chan struct{}, 1), identity: id}
	r.counts.begin()
	return r, nil
}

// create makes a place for a disk that was never seen before.
func (s *store) create(meta journal.Meta) (*replica, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.disks[meta.Disk]; r != nil {
		return r, nil
	}
	dir := filepath.Join(s.dir, "disks", meta.Disk.String())
	r, err := s.openReplica(dir, &meta)
	if err != nil {
		return nil, fmt.Errorf("make a place for disk %v: %w", meta.Disk, err)
	}
	s.disks[meta.Disk] = r
	return r, nil
}

// count is how many disks are within reach.
func (s *store) count(may reach) (n int) {
	for _, r := range s.all() {
		if may.covers(r.journal.Meta().Host) {
			n++
		}
	}
	return n
}

func (s *store) get(id block.DiskID) *replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disks[id]
}

// all are the replicas in the order of their host and name.
func (s *store) all() []*replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*replica
	for _, r := range s.disks {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *replica) int { return strings.Compare(a.name(), b.name()) })
	return list
}

func (r *replica) name() string {
	m := r.journal.Meta()
	return m.Host + ":" + m.Name
}

// find resolves what a peer calls a disk, among those that it may ask of: its id or the start of it, HOST:DEVICE, or DEVICE where only one host has it.
func (s *store) find(selector string, may reach) (*replica, error) {
	var hits []*replica
	var known []string
	for _, r := range s.all() {
		m := r.journal.Meta()
		if !may.covers(m.Host) {
			continue
		}
		known = append(known, r.name()+" ("+m.Disk.String()+")")
		if m.Disk.String() == selector {
			return r, nil
		}
		// A host may have had two disks of one name, one after the other.
		if r.name() == selector || m.Name == selector || len(selector) >= 4 && strings.HasPrefix(m.Disk.String(), selector) {
			hits = append(hits, r)
		}
	}
	slices.Sort(known)
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		if len(known) == 0 {
			return nil, wire.Errorf(wire.CodeUnknownDisk, "no disk %q: this receiver holds none yet", selector)
		}
		return nil, wire.Errorf(wire.CodeUnknownDisk, "no disk %q; there are %s", selector, strings.Join(known, ", "))
	}
	return nil, wire.Errorf(wire.CodeUnknownDisk, "%q names %d disks: say HOST:DEVICE or the id; there are %s",
		selector, len(hits), strings.Join(known, ", "))
}

func (s *store) close() error {
	var err error
	for _, r := range s.all() {
		err = errors.Join(err, r.journal.Close(), r.vol.Close())
	}
	return errors.Join(err, s.lock.Close())
}

// holder is the source's stream that has a disk open.
type holder struct {
	host  string
	boot  [16]byte
	evict func()        // breaks its stream
	gone  chan struct{} // closed when it has let go
}

// evictTimeout is how long an earlier stream of the same agent may take to notice that it is broken.
const evictTimeout = 10 * time.Second

// claim gives the disk to one source at a time. A second stream from the same boot of the same host takes over from the first,
// whose agent is gone: it would have kept the second from tracking the disk. The returned func lets go.
func (r *replica) claim(h *holder) (release func(), err error) {
	if err := r.damage(); err != nil {
		return nil, wire.Errorf(wire.CodeCorrupt, "%w; points before it can be restored; move %s away to begin the copy anew", err, r.dir)
	}
	h.gone = make(chan struct{})
	for deadline := time.Now().Add(evictTimeout); ; {
		r.mu.Lock()
		old := r.holder
		if old == nil {
			r.holder = h
			r.mu.Unlock()
			return func() { r.release(h) }, nil
		}
		r.mu.Unlock()
		if old.host != h.host || old.boot != h.boot || time.Now().After(deadline) {
			return nil, wire.Errorf(wire.CodeBusy, "disk %v is being replicated by another agent on %s", r.journal.Meta().Disk, old.host)
		}
		old.evict()
		select {
		case <-old.gone:
		case <-time.After(time.Until(deadline)):
		}
	}
}

func (r *replica) release(h *holder) {
	r.mu.Lock()
	r.holder = nil
	r.mu.Unlock()
	close(h.gone)
}

// source is the host whose agent has the disk open, "" for none.
func (r *replica) source() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holder == nil {
		return ""
	}
	return r.holder.host
}

// poke tells the folder that there may be something to do.
func (r *replica) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
