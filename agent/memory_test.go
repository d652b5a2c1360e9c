package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLender: no more is lent than there is, each is made once and when it is needed, and a hold waits for all and lends none. Its
// time is synctest's.
func TestLender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made, lent, most atomic.Int32
		l := newLender(2, func() (*int, error) {
			made.Add(1)
			return new(int), nil
		})
		work := func(*int) error {
			most.Store(max(most.Load(), lent.Add(1)))
			time.Sleep(time.Second)
			lent.Add(-1)
			return nil
		}
		for range 6 {
			go l.borrow(t.Context(), work)
		}
		synctest.Wait()
		if lent.Load() != 2 || made.Load() != 2 {
			t.Errorf("%d lent, %d made", lent.Load(), made.Load())
		}
		time.Sleep(2 * time.Second)
		release := l.hold()
		if lent.Load() != 0 {
			t.Errorf("%d lent while all are held", lent.Load())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.borrow(ctx, work); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("borrowed while all are held: %v", err)
		}
		release()
		if err := l.borrow(t.Context(), work); err != nil || made.Load() != 2 || most.Load() != 2 {
			t.Errorf("%v; %d made, %d lent at once", err, made.Load(), most.Load())
		}
	})
}

// TestLenderFails: what can't be made is tried again, and costs none of the number.
func TestLenderFails(t *testing.T) {
	broken := errors.New("broken")
	fail := true
	l := newLender(1, func() (*int, error) {
		if fail {
			return nil, broken
		}
		return new(int), nil
	})
	nothing := func(*int) error { return nil }
	if err := l.borrow(t.Context(), nothing); !errors.Is(err, broken) {
		t.Error(err)
	}
	fail = false
	if err := l.borrow(t.Context(), nothing); err != nil {
		t.Error(err)
	}
}
