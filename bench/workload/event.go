package workload

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// kind is what an event is about.
type kind string

const (
	kindFile   kind = "file"   // slot holds content seq; seq 0: nothing
	kindRecord kind = "record" // record slot of the record file holds content seq
	kindRow    kind = "row"    // row seq of the database is there
)

// event is one line of a workload's report: an operation that begins, or its acknowledgement.
type event struct {
	Op    uint64 `json:"op"`              // pairs the two
	Kind  kind   `json:"kind,omitempty"`  // of one that begins
	Slot  string `json:"slot,omitempty"`  // file name below the mount point, or number of the record
	Seq   uint64 `json:"seq,omitempty"`   // number of the content
	Acked int64  `json:"acked,omitempty"` // when, in nanoseconds of the wall clock; 0 in one that begins
}

// reporter writes events for several writers. The line of an operation's begin is in the pipe before the operation is.
type reporter struct {
	mu   sync.Mutex
	enc  *json.Encoder
	last uint64
}

func newReporter(w io.Writer) *reporter { return &reporter{enc: json.NewEncoder(w)} }

// begin reports what is about to be done, and returns its number.
func (r *reporter) begin(k kind, slot string, seq uint64) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	if err := r.enc.Encode(event{Op: r.last, Kind: k, Slot: slot, Seq: seq}); err != nil {
		return 0, fmt.Errorf("report operation: %w", err)
	}
	return r.last, nil
}

// ack reports that an operation is durable, as of now.
func (r *reporter) ack(ops ...uint64) error {
	now := time.Now().UnixNano()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range ops {
		if err := r.enc.Encode(event{Op: op, Acked: now}); err != nil {
			return fmt.Errorf("report acknowledgement: %w", err)
		}
	}
	return nil
}
