package pki

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
)

// LedgerFile is the record of what was done about identities, in the CA's folder and in a host's: a JSON document a line,
// only ever added to. In the CA's folder a certificate stands in it before anybody has it: what is not in the ledger can't be
// taken back by name.
const LedgerFile = "ledger.jsonl"

const ledgerVersion = 1

// Entry is a line of a ledger.
type Entry struct {
	Version int         `json:"version"`
	Time    time.Time   `json:"time"`
	Event   string      `json:"event"` // issued, invited, enrolled, renewed, revoked
	Name    string      `json:"name,omitempty"`
	Roles   []wire.Role `json:"roles,omitempty"`
	Serial  string      `json:"serial,omitempty"`
	Until   time.Time   `json:"until,omitzero"`
	Token   string      `json:"token,omitempty"` // its id
	By      string      `json:"by,omitempty"`    // who had it done: an administrator's name, or a host itself
	Addr    string      `json:"addr,omitempty"`  // where that was
	Detail  string      `json:"detail,omitempty"`
}

// Record adds an entry to the ledger in dir, durably.
func Record(dir string, e Entry) error {
	e.Version, e.Time = ledgerVersion, time.Now().UTC()
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := appendLine(filepath.Join(dir, LedgerFile), raw); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// ReadLedger reads the ledger in dir and tells how many lines could not be read. A line that a crash cut short is one: what
// it was to say did not happen.
func ReadLedger(dir string) (entries []Entry, unreadable int, err error) {
	f, err := os.Open(filepath.Join(dir, LedgerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Version != ledgerVersion {
			unreadable++
			continue
		}
		entries = append(entries, e)
	}
	return entries, unreadable, lines.Err()
}
