package journal_test

import (
	"context"
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// TestSummary: it says of the points what a list of them says, whatever was folded, merged and pinned.
func TestSummary(t *testing.T) {
	w, ctx := newWorld(t, 61), context.Background()
	check := func(when string) {
		t.Helper()
		var want journal.Summary
		points := w.j.Points()
		for i, p := range points {
			want.Points++
			if want.Newest = &points[i]; want.Oldest == nil {
				want.Oldest = &points[i]
			}
			switch {
			case p.Class.Consistent() && p.Proven():
				want.Consistent, want.Proven = &points[i], &points[i]
			case p.Class.Consistent():
				want.Consistent = &points[i]
			}
			if !p.Proven() {
				want.Unproven++
			}
			if p.Pinned {
				want.Pinned++
			}
		}
		got := w.j.Summary()
		if got.Points != want.Points || got.Unproven != want.Unproven || got.Pinned != want.Pinned {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
		for i, pair := range [][2]*journal.Point{{got.Oldest, want.Oldest}, {got.Newest, want.Newest}, {got.Consistent, want.Consistent}, {got.Proven, want.Proven}} {
			if (pair[0] == nil) != (pair[1] == nil) || pair[0] != nil && pair[0].Seq != pair[1].Seq {
				t.Errorf("%s: point %d of the summary is %+v, want %+v", when, i, pair[0], pair[1])
			}
		}
	}
	check("empty")
	for _, p := range []struct {
		class block.Class
		flags block.SealFlags
	}{
		{block.ClassNone, 0},
		{block.ClassCrash, 0},
		{block.ClassApplication, 0},
		{block.ClassCrash, 0},
		{block.ClassCrash, block.FlagUnproven},
		{block.ClassFuzzy, block.FlagUnproven},
		{block.ClassNone, 0},
	} {
		d, state := w.next(p.class)
		d.Seal.Flags = p.flags
		d.Finish(w.codec)
		if err := d.Write(w.j); err != nil {
			t.Fatal(err)
		}
		w.states[d.Header.Seq] = state
		check(d.Header.Seq.String())
	}
	if s := w.j.Summary(); s.Proven.Seq != 4 || s.Consistent.Seq != 5 || s.Newest.Seq != 6 || s.Unproven != 2 {
		t.Fatalf("%+v: the test proves nothing", s)
	}
	if err := errors.Join(w.j.Pin(4), w.j.Fold(ctx, 2)); err != nil {
		t.Fatal(err)
	}
	check("after a fold")
	w.merge(2, 4)
	check("after a merge")
	if u := w.j.Usage(); u.FoldedDeltas != 2 || u.MergedDeltas != 2 {
		t.Errorf("2 deltas were folded and 2 merged: %+v", u)
	}
}
