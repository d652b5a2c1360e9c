package main

import (
	"math"
	"slices"
)

// spread is how samples lie: the quartiles, by linear interpolation between order statistics (type 7 of Hyndman and Fan,
// "Sample Quantiles in Statistical Packages", 1996).
type spread struct {
	Low    float64 `json:"low_quartile"`
	Median float64 `json:"median"`
	High   float64 `json:"high_quartile"`
}

// spreadOf is the spread of at least one sample.
func spreadOf(samples []float64) spread {
	s := slices.Sorted(slices.Values(samples))
	at := func(q float64) float64 {
		x := q * float64(len(s)-1)
		i := int(math.Floor(x))
		if i+1 == len(s) {
			return s[i]
		}
		return s[i] + (x-float64(i))*(s[i+1]-s[i])
	}
	return spread{at(0.25), at(0.5), at(0.75)}
}

// ratios are those of the samples of two things that were measured in the same rounds.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

// turn is the order in which round i measures n things: each round begins with another one, and every other round goes
// backwards, so that no thing always follows the same one nor always comes first.
func turn(i, n int) []int {
	order := make([]int, n)
	for k := range n {
		order[k] = (i/2 + k) % n
	}
	if i%2 == 1 {
		slices.Reverse(order)
	}
	return order
}
