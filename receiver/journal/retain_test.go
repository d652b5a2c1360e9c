package journal_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// addAt makes a delta of that time durable.
func (w *world) addAt(class block.Class, at time.Time) block.Seq {
	w.t.Helper()
	d, state := w.next(class)
	d.Seal.Time = at.UTC()
	d.Finish(w.codec)
	if err := d.Write(w.j); err != nil {
		w.t.Fatal(err)
	}
	w.states[d.Header.Seq] = state
	return d.Header.Seq
}

func (w *world) retain(p journal.Policy) {
	w.t.Helper()
	if err := w.j.Retain(context.Background(), p); err != nil {
		w.t.Fatal(err)
	}
}

// seqs are the numbers of the points.
func (w *world) seqs() (list []block.Seq) {
	for _, p := range w.j.Points() {
		list = append(list, p.Seq)
	}
	return list
}

func (w *world) expectPoints(want ...block.Seq) {
	w.t.Helper()
	if got := w.seqs(); !slices.Equal(got, want) {
		w.t.Fatalf("points %v, want %v", got, want)
	}
	for _, seq := range want {
		w.expect(seq)
	}
	w.check()
}

// TestDefaultTiers lives through 35 days of points and holds at each hour what is there against what the tiers promise: all of
// the last hour, the newest consistent one of each settled hour of a day, and of each settled day of 30.
func TestDefaultTiers(t *testing.T) {
	w := newWorld(t, 50)
	w.steady = true
	begin := time.Date(2026, 2, 20, 7, 13, 0, 0, time.UTC)
	var all []journal.Point
	now := begin
	for i := 0; now.Before(begin.Add(35 * 24 * time.Hour)); i++ {
		now = now.Add(35 * time.Minute)
		class := []block.Class{block.ClassCrash, block.ClassNone, block.ClassFuzzy, block.ClassApplication}[w.rng.IntN(4)]
		seq := w.addAt(class, now)
		if class.Point() {
			all = append(all, journal.Point{Seal: block.Seal{Seq: seq, Time: now, Class: class}})
		}
		if i%5 != 0 {
			continue
		}
		w.retain(journal.Policy{Tiers: journal.DefaultTiers(), Now: now})
		expectTiers(t, all, w.j.Points(), now)
	}
	points := w.j.Points()
	if n := len(points); n < 45 || n > 65 {
		t.Errorf("%d points after 35 days", n)
	}
	for _, p := range points {
		w.expect(p.Seq)
	}
	w.check()
}

// expectTiers states the promise in another way than the code does: per point, not per interval.
func expectTiers(t *testing.T, all, there []journal.Point, now time.Time) {
	t.Helper()
	type interval struct {
		begin time.Time
		every time.Duration
	}
	bests := map[interval]journal.Point{}
	for _, p := range all {
		for _, every := range []time.Duration{time.Hour, 24 * time.Hour} {
			in := interval{p.Time.Truncate(every), every}
			if b, ok := bests[in]; !ok || p.Class.Consistent() || !b.Class.Consistent() {
				bests[in] = p
			}
		}
	}
	best := func(p journal.Point, every time.Duration) bool {
		return bests[interval{p.Time.Truncate(every), every}].Seq == p.Seq
	}
	have := map[block.Seq]bool{}
	for _, p := range there {
		have[p.Seq] = true
	}
	newest, consistent := all[len(all)-1].Seq, block.Seq(0)
	for _, p := range all {
		if p.Class.Consistent() {
			consistent = p.Seq
		}
	}
	for _, p := range all {
		age := now.Sub(p.Time)
		endOf := func(every time.Duration) time.Duration { return now.Sub(p.Time.Truncate(every).Add(every)) }
		var want bool
		switch {
		case p.Seq == newest || p.Seq == consistent || age <= time.Hour || endOf(time.Hour) < time.Hour:
			want = true
		case age > 30*24*time.Hour:
			want = false
		case endOf(24*time.Hour) >= 24*time.Hour:
			want = best(p, 24*time.Hour)
		default:
			want = best(p, time.Hour)
		}
		got := have[p.Seq]
		if got != want && !(want && age > 29*24*time.Hour) { // its interval reaches over the end of the last tier
			t.Fatalf("at %v: point %v of %v, %v: there %v, want %v", now, p.Seq, p.Time, p.Class, got, want)
		}
	}
}

// TestSacrifice: what goes first where there are too many points.
func TestSacrifice(t *testing.T) {
	tiers := []journal.Tier{{Span: time.Hour}, {Span: 24 * time.Hour, Every: time.Hour}}
	noon := time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC)
	const c, f, n = block.ClassCrash, block.ClassFuzzy, block.ClassNone
	for name, test := range map[string]struct {
		classes []block.Class // #1 at noon, one each 10 minutes
		pin     []block.Seq
		max     int
		tiers   []journal.Tier
		want    []block.Seq
	}{
		"none":                                 {[]block.Class{c, c, c}, nil, 3, tiers, []block.Seq{1, 2, 3}},
		"fuzzy ones first":                     {[]block.Class{c, f, c, f, c}, nil, 4, tiers, []block.Seq{1, 3, 4, 5}},
		"all fuzzy ones":                       {[]block.Class{c, f, c, f, c}, nil, 3, tiers, []block.Seq{1, 3, 5}},
		"then an interval gets thinner":        {[]block.Class{c, c, c, c, c, c, c, c}, nil, 5, tiers, []block.Seq{6, 7, 8}},
		"the oldest where there is no tier":    {[]block.Class{c, c, c, c}, nil, 2, nil, []block.Seq{3, 4}},
		"the oldest in the newest's interval":  {[]block.Class{c, c, c, c}, nil, 2, tiers, []block.Seq{3, 4}},
		"never a pinned one":                   {[]block.Class{c, c, c, c, c}, []block.Seq{2}, 2, nil, []block.Seq{2, 5}},
		"never a pinned fuzzy one":             {[]block.Class{c, f, c, c}, []block.Seq{2}, 2, nil, []block.Seq{2, 4}},
		"never the newest consistent one":      {[]block.Class{c, c, f, f}, nil, 1, nil, []block.Seq{2, 4}},
		"never the newest":                     {[]block.Class{f, f, f}, nil, 1, nil, []block.Seq{3}},
		"what is in no point goes to the next": {[]block.Class{c, n, c, n, c, n}, nil, 2, nil, []block.Seq{3, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 51)
			for i, class := range test.classes {
				w.addAt(class, noon.Add(time.Duration(i)*10*time.Minute))
			}
			for _, seq := range test.pin {
				if err := w.j.Pin(seq); err != nil {
					t.Fatal(err)
				}
			}
			now := noon.Add(time.Duration(len(test.classes)) * 10 * time.Minute)
			if len(test.tiers) > 0 {
				now = noon.Add(50 * time.Minute)
			}
			w.retain(journal.Policy{Tiers: test.tiers, MaxPoints: test.max, Now: now})
			w.expectPoints(test.want...)
		})
	}
}

// TestMaxBytes: points go until the journal takes no more than it may, thinner before shorter; with the oldest point pinned by
// merging alone.
func TestMaxBytes(t *testing.T) {
	for _, pin := range []bool{false, true} {
		t.Run(fmt.Sprintf("pinned %v", pin), func(t *testing.T) {
			_, j, _, c, id := newReal(t)
			for seq := block.Seq(1); seq <= 20; seq++ {
				if err := stripe(j, c, id, seq).Write(j); err != nil {
					t.Fatal(err)
				}
			}
			size := j.Points()[3].Bytes
			if pin {
				if err := j.Pin(1); err != nil {
					t.Fatal(err)
				}
			}
			p := journal.Policy{
				Tiers:    []journal.Tier{{Span: 100 * time.Second}, {Span: time.Hour, Every: 4 * time.Second}},
				MaxBytes: 9 * size, Now: time.Unix(20, 0),
			}
			if err := j.Retain(context.Background(), p); err != nil {
				t.Fatal(err)
			}
			points := j.Points()
			if got := j.Usage().Bytes; got > p.MaxBytes || len(points) < 6 || points[len(points)-1].Seq != 20 || points[0].Seq > 3 {
				t.Errorf("%v of %v, %d points from %v", got, p.MaxBytes, len(points), points[0].Seq)
			}
			if pin && points[0].Seq != 1 {
				t.Error("the pinned point is gone")
			}
			p.MaxBytes = 1
			if err := j.Retain(context.Background(), p); err != nil {
				t.Fatal(err)
			}
			if got, want := len(j.Points()), map[bool]int{false: 1, true: 2}[pin]; got != want {
				t.Errorf("%d points where there is room for none, want %d", got, want)
			}
		})
	}
}

// TestClockSetBack: points of a source whose clock was set back are not taken for old.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t, 52)
	now := time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC)
	w.addAt(block.ClassCrash, now.Add(-time.Minute))
	w.addAt(block.ClassCrash, now.Add(-20*24*time.Hour))
	w.addAt(block.ClassCrash, now.Add(-20*24*time.Hour+time.Second))
	w.addAt(block.ClassCrash, now)
	w.retain(journal.Policy{Tiers: journal.DefaultTiers(), Now: now})
	w.expectPoints(1, 2, 3, 4)
}

func TestLatestHorizon(t *testing.T) {
	w := newWorld(t, 53)
	p := journal.Policy{Tiers: journal.DefaultTiers(), Latest: true, Now: time.Unix(1e9, 0)}
	w.add(block.ClassNone)
	w.retain(p)
	if got := w.j.Usage().Folded; got != 1 {
		t.Fatalf("folded %v: a part of the first sync has nothing to wait for", got)
	}
	w.add(block.ClassFuzzy)
	w.retain(p)
	w.expectPoints(2)
	w.add(block.ClassCrash)
	w.add(block.ClassCrash)
	w.add(block.ClassFuzzy)
	w.add(block.ClassNone)
	w.retain(p)
	w.expectPoints(4, 5)
	if got := w.j.Usage().Folded; got != 4 {
		t.Errorf("folded %v, the newest consistent point is #4", got)
	}
	if err := w.j.Pin(4); err != nil {
		t.Fatal(err)
	}
	w.add(block.ClassCrash)
	w.retain(p)
	w.expectPoints(4, 5, 7)
	if err := w.j.Unpin(4); err != nil {
		t.Fatal(err)
	}
	w.retain(p)
	w.expectPoints(7)
}

func TestCheckTiers(t *testing.T) {
	h := time.Hour
	for text, bad := range map[string][]journal.Tier{
		"span is positive":          {{Span: 0}},
		"longer than the span":      {{Span: h, Every: 2 * h}},
		"must both grow":            {{Span: 2 * h}, {Span: h, Every: time.Minute}},
		"both grow from":            {{Span: h}, {Span: 2 * h}},
		"at most 8":                 make([]journal.Tier, 9),
		"an interval not negative":  {{Span: h, Every: -1}},
		"interval must both grow":   {{Span: h, Every: h}, {Span: 2 * h, Every: h}},
		"span and interval must bo": {{Span: h, Every: time.Minute}, {Span: h, Every: h}},
	} {
		if err := journal.CheckTiers(bad); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := journal.CheckTiers(journal.DefaultTiers()); err != nil {
		t.Error(err)
	}
}

func TestPins(t *testing.T) {
	w, ctx := newWorld(t, 54), context.Background()
	for _, class := range []block.Class{block.ClassCrash, block.ClassNone, block.ClassCrash, block.ClassCrash, block.ClassCrash} {
		w.add(class)
	}
	for _, seq := range []block.Seq{0, 2, 6} {
		if err := w.j.Pin(seq); !errors.Is(err, journal.ErrNoPoint) {
			t.Errorf("pinned %v, which is no point: %v", seq, err)
		}
	}
	if err := w.j.Fold(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.j.Pin(1), w.j.Pin(4), w.j.Pin(4)); err != nil { // #1 is the volume itself
		t.Fatal(err)
	}
	for range 2 {
		if err := w.j.Fold(ctx, 5); !errors.Is(err, journal.ErrPinned) || w.j.Usage().Folded != 1 {
			t.Errorf("folding past a pinned point: %v, %+v", err, w.j.Usage())
		}
		if err := w.j.Merge(ctx, 1, 5); !errors.Is(err, journal.ErrPinned) {
			t.Errorf("merging over a pinned point: %v", err)
		}
		points := w.j.Points()
		if len(points) != 4 || !points[0].Pinned || points[1].Pinned || !points[2].Pinned {
			t.Errorf("points %+v", points)
		}
		w.reopen()
	}
	w.merge(1, 4) // a pinned one at the end stays
	w.retain(journal.Policy{MaxPoints: 1})
	w.expectPoints(1, 4, 5)
	if err := errors.Join(w.j.Unpin(1), w.j.Unpin(1), w.j.Unpin(3)); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	w.retain(journal.Policy{MaxPoints: 1})
	w.expectPoints(4, 5)
	if err := w.fs.Remove(testDir + "/pins.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(testDir, w.options()); !errors.As(err, new(*block.CorruptionError)) {
		t.Errorf("opened without the pins: %v", err)
	}
}

// TestTooManyPins: there is an end to them, and one that is taken back makes room.
func TestTooManyPins(t *testing.T) {
	w := newWorld(t, 55)
	w.steady = true
	for seq := block.Seq(1); seq <= 1001; seq++ {
		w.add(block.ClassCrash)
		if err := w.j.Pin(seq); seq <= 1000 && err != nil || seq > 1000 && !errors.Is(err, journal.ErrPins) {
			t.Fatalf("pin %v: %v", seq, err)
		}
	}
	w.reopen()
	if err := errors.Join(w.j.Pin(7), w.j.Unpin(8), w.j.Pin(1001)); err != nil {
		t.Error(err)
	}
}
