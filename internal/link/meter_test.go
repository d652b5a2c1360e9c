package link

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// muxFrame is a frame as yamux writes it.
func muxFrame(kind byte, flags uint16, id uint32, body []byte) []byte {
	b := make([]byte, yamuxHeader, yamuxHeader+len(body))
	b[yamuxTypeAt] = kind
	binary.BigEndian.PutUint16(b[yamuxFlagsAt:], flags)
	binary.BigEndian.PutUint32(b[yamuxStreamAt:], id)
	binary.BigEndian.PutUint32(b[yamuxLengthAt:], uint32(len(body)))
	return append(b, body...)
}

// TestTheMeterFollowsTheFraming cuts frames of several streams at any place, and has streams read and ended in any order:
// what is counted is what is unread.
func TestTheMeterFollowsTheFraming(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMeter(nil, newBudget(1<<30))
		unread := map[uint32]int{}
		var wire []byte
		for range rapid.IntRange(1, 30).Draw(t, "frames") {
			id := rapid.Uint32Range(1, 4).Draw(t, "id")
			if rapid.Bool().Draw(t, "data") {
				n := rapid.IntRange(0, 300).Draw(t, "n")
				wire = append(wire, muxFrame(yamuxData, 0, id, make([]byte, n))...)
				unread[id] += n
				continue
			}
			head := muxFrame(1, 0, id, nil) // a window, whose length is no body
			binary.BigEndian.PutUint32(head[yamuxLengthAt:], 5000)
			wire = append(wire, head...)
		}
		for len(wire) > 0 {
			n := rapid.IntRange(1, len(wire)).Draw(t, "cut")
			m.count(wire[:n])
			wire = wire[n:]
		}
		total := 0
		for id, n := range unread {
			if got := m.streams[id]; n > 0 && (got == nil || got.n != n || got.charged != n+unreadCost) {
				t.Fatalf("stream %d: %+v, %d bytes came", id, got, n)
			}
		}
		for id := range m.streams {
			total += unread[id] + unreadCost
		}
		if m.budget.used != total {
			t.Fatalf("%d bytes are held, %d are counted", total, m.budget.used)
		}
		for id := range uint32(5) {
			if n := unread[id]; n > 0 {
				m.read(id, rapid.IntRange(0, n).Draw(t, "read"))
			}
			m.finish(id)
			m.count(muxFrame(1, yamuxFIN, id, nil))
		}
		if m.budget.used != 0 || len(m.streams) != 0 {
			t.Fatalf("%d bytes of %d streams are held when all have ended", m.budget.used, len(m.streams))
		}
	})
}

// TestNamesOfStreamsAreNotFree: a peer that only ends streams that never were holds memory by that, and is charged for it.
func TestNamesOfStreamsAreNotFree(t *testing.T) {
	m := newMeter(nil, newBudget(1<<30))
	for id := range uint32(1000) {
		m.count(muxFrame(1, yamuxFIN, id, nil))
	}
	if m.budget.used != 1000*unreadCost {
		t.Errorf("%d", m.budget.used)
	}
	m.end()
	if m.budget.used != 0 {
		t.Errorf("%d bytes are held by a session that has ended", m.budget.used)
	}
}

// TestTheMeterHoldsOnePeerBack: reading stops over the budget, between two frames, and goes on when something was read to its
// end, whose memory is given back; and it ends with the session. A peer with a budget of its own is not held up.
func TestTheMeterHoldsOnePeerBack(t *testing.T) {
	shared := newBudget(7000)
	far, near := net.Pipe()
	defer far.Close()
	m, other := newMeter(near, shared), newMeter(nil, newBudget(7000))
	shrunk := make(chan struct{}, 10)
	m.own(1, func() { shrunk <- struct{}{} })
	var passed atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 4096); ; {
			n, err := m.Read(buf)
			passed.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	const whole = yamuxHeader + 4000
	go far.Write(bytes.Repeat(muxFrame(yamuxData, 0, 1, make([]byte, 4000)), 5)) // one after the other, with no seam to be seen
	after := func(frames int64) {
		t.Helper()
		for range 1000 {
			if passed.Load() == frames*whole {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond) // for what must not come after it
		if n := passed.Load(); n != frames*whole {
			t.Fatalf("%d bytes were handed on, want %d frames of %d", n, frames, whole)
		}
	}
	after(2)
	other.count(muxFrame(yamuxData, 0, 1, make([]byte, 4000)))
	if other.budget.used > other.budget.most {
		t.Error("the other peer is held to the first one's budget")
	}
	m.read(1, 7999)
	after(2) // its memory is still taken
	m.read(1, 1)
	<-shrunk
	after(4)
	m.end()
	after(5)
	far.Close()
	<-done
}
