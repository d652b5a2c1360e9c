package journal_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
	"github.com/understudy-dr/understudy/receiver/volume/volumetest"
)

var (
	crashSeeds = flag.Uint64("crash.seeds", 120, "histories of TestCrash")
	crashFirst = flag.Uint64("crash.first", 0, "seed of the first, to see one again")
)

// errPower is what everything gets once the power is gone, errFault what something gets now and then.
var (
	errPower = errors.New("power is gone")
	errFault = errors.New("input/output error")
)

// crasher drives a journal through a random history with losses of power and holds it against the model.
type crasher struct {
	*world
	left   int       // operations of disk and volume until the power goes; below 0 it stays
	faults bool      // operations fail now and then
	acked  block.Seq // the newest delta that was acknowledged
	// Deltas that follow acked and got no ack, with the disk as of each: any one of them may be there after a crash.
	unacked map[block.Digest][]byte
	gone    map[block.Seq]bool // folding, merging or retention was asked to let it go
	pinned  map[block.Seq]bool // for sure
	pinning map[block.Seq]bool // maybe: no answer came
}

func newCrasher(t testing.TB, seed uint64) *crasher {
	return &crasher{
		world: newWorld(t, seed), left: -1, unacked: map[block.Digest][]byte{},
		gone: map[block.Seq]bool{}, pinned: map[block.Seq]bool{}, pinning: map[block.Seq]bool{},
	}
}

// power is asked before each operation.
func (c *crasher) power() error {
	if c.left == 0 {
		return errPower
	}
	c.left--
	if c.faults && c.left > 0 && c.rng.IntN(40) == 0 {
		return errFault
	}
	return nil
}

// TestCrash: every acknowledged point survives every crash with its content, one that was not acknowledged is whole or is not,
// and the journal goes on.
func TestCrash(t *testing.T) {
	var crashes, survivors, redone int
	for seed := *crashFirst; seed < *crashFirst+*crashSeeds; seed++ {
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			c := newCrasher(t, seed)
			c.faults = seed%2 == 1
			c.fs.Fail = func(journaltest.Op, string) error { return c.power() }
			c.dev.Fail = func(volumetest.Op, block.Range) error { return c.power() }
			for range 4 {
				c.left = c.rng.IntN(300)
				for c.left > 0 {
					c.step()
				}
				crashes++
				s, r := c.crash()
				survivors, redone = survivors+s, redone+r
			}
		})
		if !ok {
			return
		}
	}
	// The canary: a test that never crashes at the places that matter proves nothing.
	if *crashSeeds >= 100 && (survivors == 0 || redone == 0) {
		t.Errorf("%d crashes, %d with a delta that survived without its ack, %d in the middle of a fold: none may be 0", crashes, survivors, redone)
	}
}

// step does one thing, which the loss of power may stop.
func (c *crasher) step() {
	var err error
	switch c.rng.IntN(16) {
	case 0:
		err = c.fold()
	case 1, 2:
		err = c.retain()
	case 3:
		err = c.abort()
	case 4:
		m := c.j.Meta()
		m.Name += "x"
		err = c.j.SetMeta(m)
	case 5:
		if err = c.j.Close(); err == nil {
			c.open()
		}
	case 6, 7:
		err = c.merge()
	case 8:
		err = c.pin()
	case 9:
		err = c.unpin()
	default:
		err = c.commit()
	}
	if err != nil && !errors.Is(err, errPower) && !errors.Is(err, errFault) {
		c.t.Fatalf("with power: %v", err)
	}
}

// letGo notes that what lies from one delta up to before another may go, but for what is pinned.
func (c *crasher) letGo(from, before block.Seq) {
	for seq := from; seq < before; seq++ {
		if !c.pinned[seq] {
			c.gone[seq] = true
		}
	}
}

func (c *crasher) fold() error {
	tip := c.j.Tip().Seq
	upto := tip - min(tip, block.Seq(c.rng.IntN(4)))
	limit := upto
	for seq := range c.pinned {
		limit = min(limit, seq)
	}
	c.letGo(1, limit)
	err := c.j.Fold(context.Background(), upto)
	if errors.Is(err, journal.ErrPinned) && len(c.pinned)+len(c.pinning) > 0 {
		return nil
	}
	return err
}

// retain lets everything go but what no policy does.
func (c *crasher) retain() error {
	p := journal.Policy{Now: time.Unix(1e9+int64(c.j.Tip().Seq), 0)}
	switch c.rng.IntN(4) {
	case 0:
		p.MaxPoints = 3
	case 1:
		p.MaxBytes = 4000
	case 2:
		p.Latest = true
	}
	if c.rng.IntN(3) > 0 {
		p.Tiers = []journal.Tier{{Span: 3 * time.Second}, {Span: 12 * time.Second, Every: 4 * time.Second}, {Span: 40 * time.Second, Every: 12 * time.Second}}
	}
	safe := map[block.Seq]bool{}
	var newest, consistent block.Seq
	for _, pt := range c.j.Points() {
		newest = pt.Seq
		if pt.Class.Consistent() {
			consistent = pt.Seq
		}
	}
	safe[newest], safe[consistent] = true, true
	end := newest
	if end == 0 {
		end = c.j.Tip().Seq
	}
	for seq := block.Seq(1); seq < end; seq++ {
		if !safe[seq] && !c.pinned[seq] {
			c.gone[seq] = true
		}
	}
	return c.j.Retain(context.Background(), p)
}

func (c *crasher) merge() error {
	tip := c.j.Tip().Seq
	upto := tip - min(tip, block.Seq(c.rng.IntN(4)))
	after := upto - min(upto, block.Seq(1+c.rng.IntN(6)))
	for seq := range c.pinned {
		if after < seq && seq < upto {
			after = seq
		}
	}
	c.letGo(after+1, upto)
	err := c.j.Merge(context.Background(), after, upto)
	if errors.Is(err, journal.ErrPinned) && len(c.pinning) > 0 {
		return nil
	}
	return err
}

func (c *crasher) pin() error {
	points := c.j.Points()
	if len(points) == 0 || len(c.pinned)+len(c.pinning) > 2 {
		return nil
	}
	seq := points[c.rng.IntN(len(points))].Seq
	if c.pinned[seq] {
		return nil
	}
	c.pinning[seq] = true
	if err := c.j.Pin(seq); errors.Is(err, journal.ErrFolding) {
		return nil
	} else if err != nil {
		return err
	}
	delete(c.pinning, seq)
	delete(c.gone, seq)
	c.pinned[seq] = true
	return nil
}

func (c *crasher) unpin() error {
	for _, set := range []map[block.Seq]bool{c.pinned, c.pinning} {
		for seq := block.Seq(1); seq <= c.acked; seq++ { // not in the order of the map: a seed gives the same run again
			if !set[seq] {
				continue
			}
			delete(c.pinned, seq)
			c.pinning[seq] = true
			c.gone[seq] = c.gone[seq] || seq > c.acked
			if err := c.j.Unpin(seq); err != nil {
				return err
			}
			delete(c.pinning, seq)
			return nil
		}
	}
	return nil
}

// open opens the journal; the power may go while it does.
func (c *crasher) open() {
	j, err := journal.Open(testDir, c.options())
	for errors.Is(err, errFault) {
		j, err = journal.Open(testDir, c.options())
	}
	if err == nil {
		c.j = j
		c.seeTip()
	} else if !errors.Is(err, errPower) {
		c.t.Fatalf("open: %v", err)
	}
}

func (c *crasher) commit() error {
	d, state := c.next(block.Class(c.rng.IntN(4)))
	c.unacked[d.Seal.Digest] = state
	if err := d.Write(c.j); err != nil {
		return err
	}
	c.ack(d.Header.Seq, state)
	return nil
}

// ack notes that the delta is durable: no other can take its place.
func (c *crasher) ack(seq block.Seq, state []byte) {
	c.states[seq], c.acked = state, seq
	clear(c.unacked)
}

// seeTip tells the source the tip: from there on a delta that got no ack counts as durable.
func (c *crasher) seeTip() bool {
	tip := c.j.Tip()
	state := c.unacked[tip.Digest]
	if state == nil || tip.Seq != c.acked+1 {
		return false
	}
	c.ack(tip.Seq, state)
	return true
}

// abort begins a delta and drops it.
func (c *crasher) abort() error {
	d, _ := c.next(block.ClassCrash)
	w, err := c.j.Begin(d.Header)
	if err != nil {
		return err
	}
	for i := range d.Frames {
		if err := w.Append(d.Frames[i].Header, d.Frames[i].Raw()); err != nil {
			return errors.Join(err, w.Abort())
		}
	}
	return w.Abort()
}

// crash takes the power away, or kills the process alone, and brings it back.
func (c *crasher) crash() (survived, redone int) {
	c.t.Helper()
	if c.rng.IntN(3) > 0 { // else only the process was killed
		c.fs.Crash(c.rng)
		c.vol.Crash(c.rng)
	}
	c.left = -1
	return c.recovered()
}

// recovered opens what a crash left and holds it against what was promised. survived tells that a delta without an ack is
// there, redone that a fold was under way.
func (c *crasher) recovered() (survived, redone int) {
	c.t.Helper()
	j, err := journal.Open(testDir, c.options())
	if err != nil {
		c.t.Fatalf("open after a crash: %v", err)
	}
	c.j = j
	if err := errors.Join(j.Damage(), j.Check(context.Background(), nil)); err != nil {
		c.t.Fatalf("after a crash: %v", err)
	}
	if c.seeTip() {
		survived = 1
	}
	tip := j.Tip()
	if tip.Seq != c.acked {
		c.t.Fatalf("tip %v, the newest that was acknowledged is %v", tip.Seq, c.acked)
	}
	if b, err := readFile(c.fs, testDir+"/folded.json"); err != nil {
		c.t.Fatal(err)
	} else if !bytes.Contains(b, fmt.Appendf(nil, `"target":%d,`, j.Usage().Folded)) {
		redone = 1
	}
	c.compare()
	if c.rng.IntN(2) == 0 {
		if err := j.Fold(context.Background(), j.Usage().Folded); err != nil {
			c.t.Fatalf("fold after a crash: %v", err)
		}
		c.compare()
	}
	return survived, redone
}

func readFile(fsys *journaltest.FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, 0)
	if err != nil {
		return nil, err
	}
	b := make([]byte, fsys.Size(name))
	_, err = f.ReadAt(b, 0)
	return b, errors.Join(err, f.Close())
}

// compare reads every point there is, and misses those that nobody gave up.
func (c *crasher) compare() {
	c.t.Helper()
	pinned := maps.Clone(c.pinned)
	for _, p := range c.j.Points() {
		c.expect(p.Seq)
		if p.Pinned && !c.pinned[p.Seq] && !c.pinning[p.Seq] {
			c.t.Fatalf("%v is pinned, and nobody asked for it", p.Seq)
		}
		if p.Pinned {
			delete(pinned, p.Seq)
		}
	}
	if len(pinned) > 0 {
		c.t.Fatalf("pins are gone: %v", pinned)
	}
	for seq := block.Seq(1); seq <= c.acked; seq++ {
		if !c.gone[seq] {
			c.expect(seq) // a point or not, there must be a view of each
		}
	}
	c.expect(c.acked)
}
