package main

import (
	"slices"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, row := range []struct {
		samples []float64
		want    spread
	}{
		{[]float64{7}, spread{7, 7, 7}},
		{[]float64{3, 1}, spread{1.5, 2, 2.5}},
		{[]float64{5, 1, 4, 2, 3}, spread{2, 3, 4}},
		{[]float64{4, 3, 2, 1}, spread{1.75, 2.5, 3.25}},
	} {
		before := slices.Clone(row.samples)
		if got := spreadOf(row.samples); got != row.want {
			t.Errorf("%v: %v, want %v", row.samples, got, row.want)
		}
		if !slices.Equal(before, row.samples) {
			t.Errorf("%v was reordered to %v: the samples are paired by place", before, row.samples)
		}
	}
	if got := ratios([]float64{1, 9}, []float64{2, 3}); got[0] != 0.5 || got[1] != 3 {
		t.Errorf("ratios: %v, want 0.5 and 3", got)
	}
}

// Over the rounds that make a whole cycle, every thing is in every place equally often.
func TestTurn(t *testing.T) {
	for n := 1; n <= 4; n++ {
		place := make([][]int, n)
		for i := range place {
			place[i] = make([]int, n)
		}
		for i := range 2 * n {
			for at, thing := range turn(i, n) {
				place[thing][at]++
			}
		}
		for thing, counts := range place {
			for at, c := range counts {
				if c != 2 {
					t.Errorf("of %d things, thing %d is in place %d %d times in %d rounds, want 2", n, thing, at, c, 2*n)
				}
			}
		}
	}
	if a, b := turn(0, 2), turn(1, 2); !slices.Equal(a, []int{0, 1}) || !slices.Equal(b, []int{1, 0}) {
		t.Errorf("two things are measured as %v, %v, want AB, BA", a, b)
	}
}
