package main

import (
	"bytes"
	"testing"
)

func TestFirstDifference(t *testing.T) {
	base := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	change := func(at int) []byte { b := bytes.Clone(base); b[at]++; return b }
	for _, row := range []struct {
		name string
		b    []byte
		want int64
	}{
		{"equal", bytes.Clone(base), -1},
		{"first", change(0), 0},
		{"second buffer", change(1<<20 + 5), 1<<20 + 5},
		{"last", change(len(base) - 1), int64(len(base) - 1)},
		{"shorter", base[:len(base)-10], int64(len(base) - 10)},
		{"shorter by buffers", base[:1<<20], 1 << 20},
		{"longer", append(bytes.Clone(base), 1), int64(len(base))},
		{"nothing", nil, 0},
	} {
		got, err := firstDifference(bytes.NewReader(base), bytes.NewReader(row.b))
		if err != nil || got != row.want {
			t.Errorf("%s: %d %v, want %d", row.name, got, err, row.want)
		}
	}
}
