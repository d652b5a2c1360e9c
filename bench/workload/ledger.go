package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Ledger remembers what a workload did and what was acknowledged to it. The zero value is empty. It may be used by several
// goroutines.
type Ledger struct {
	mu      sync.Mutex
	keys    map[key][]*operation // of files and records, in the order they were begun
	rows    []*operation         // in the order of their numbers
	counts  Counts
	trouble error
	readers sync.WaitGroup
}

type key struct {
	kind kind
	slot string
}

// operation is one thing a workload did or was about to do.
type operation struct {
	seq   uint64    // of the content that is there after it; 0: none
	row   bool      // it is a transaction of the database
	acked time.Time // zero: it was not acknowledged
}

// Counts says how much a workload has done so far.
type Counts struct {
	Begun int // operations
	Rows  int // acknowledged transactions of the database
	Files int // acknowledged operations on files and records
}

// Counts is how much was done so far.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// Wait returns when every process that is followed has ended, with what was wrong about their events.
func (l *Ledger) Wait() error {
	l.readers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}

// follow reads a process's events until it ends, then closes r.
func (l *Ledger) follow(r io.ReadCloser) {
	l.readers.Add(1)
	go func() {
		defer l.readers.Done()
		defer r.Close()
		if err := l.read(r); err != nil {
			l.mu.Lock()
			l.trouble = errors.Join(l.trouble, err)
			l.mu.Unlock()
		}
	}()
}

// read takes events in until the pipe ends; a killed process may end it within a line.
func (l *Ledger) read(r io.Reader) error {
	place := map[uint64]*operation{}
	dec := json.NewDecoder(r)
	for {
		var e event
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read events of workload: %w", err)
		}
		if err := l.take(e, place); err != nil {
			return err
		}
	}
}

func (l *Ledger) take(e event, open map[uint64]*operation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Acked == 0 {
		l.counts.Begun++
		if e.Kind == kindRow && e.Seq != uint64(len(l.rows))+1 {
			return fmt.Errorf("workload began row %d after row %d", e.Seq, len(l.rows))
		}
		open[e.Op] = l.add(e)
		return nil
	}
	o := open[e.Op]
	if o == nil {
		return fmt.Errorf("workload acknowledged operation %d, which it did not begin", e.Op)
	}
	delete(open, e.Op)
	o.acked = time.Unix(0, e.Acked)
	if o.row {
		l.counts.Rows++
	} else {
		l.counts.Files++
	}
	return nil
}

func (l *Ledger) add(e event) *operation {
	o := &operation{seq: e.Seq, row: e.Kind == kindRow}
	if o.row {
		l.rows = append(l.rows, o)
		return o
	}
	if l.keys == nil {
		l.keys = map[key][]*operation{}
	}
	k := key{e.Kind, e.Slot}
	l.keys[k] = append(l.keys[k], o)
	return o
}
