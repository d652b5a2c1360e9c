package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// diskState is the state file of one disk: what must outlive a restart of the host. It is replaced as a whole, and never
// written for a recovery point.
type diskState struct {
	path string

	mu   sync.Mutex
	data stateData
}

type stateData struct {
	Version    int              `json:"version"`
	Generation block.Generation `json:"generation"` // of the disk, as this source knows it: a target with a newer one refuses it
	Verify     verifyState      `json:"verify"`
}

// verifyState is where the rolling verification is (rolling.go).
type verifyState struct {
	Round      int        `json:"round"`              // number of the round under way, from 1
	Started    time.Time  `json:"started,omitzero"`   // when it began
	Position   block.Size `json:"position_bytes"`     // how far it is
	LastFull   time.Time  `json:"last_full,omitzero"` // when the last whole round ended
	Mismatches int        `json:"mismatches"`         // blocks that differed without being due to be sent, ever
	Mismatched time.Time  `json:"last_mismatch,omitzero"`
}

const diskStateVersion = 1

// statePath is where the state of a disk lies.
func statePath(stateDir string, id block.DiskID) string {
	return filepath.Join(stateDir, "disk-"+id.String()+".json")
}

// loadDiskState reads the state of a disk; a file that is not there is the state of a new disk.
func loadDiskState(stateDir string, id block.DiskID) (*diskState, error) {
	s := &diskState{path: statePath(stateDir, id), data: stateData{Version: diskStateVersion}}
	raw, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &s.data); err != nil {
		return nil, fmt.Errorf("read %s: %w; restore it from a backup, or remove it: a disk that was promoted must then rejoin", s.path, err)
	}
	if s.data.Version > diskStateVersion {
		return nil, fmt.Errorf("read %s: version %d: %w; install the release that wrote it", s.path, s.data.Version, block.ErrVersion)
	}
	return s, nil
}

func (s *diskState) current() stateData {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data
}

func (s *diskState) generation() block.Generation { return s.current().Generation }

// change changes the state in memory and, unless store is false, in the file.
func (s *diskState) change(store bool, f func(*stateData)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.data
	f(&next)
	if store {
		if err := storeJSON(s.path, next); err != nil {
			return err
		}
	}
	s.data = next
	return nil
}
