package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
)

func TestQuantilesOf(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(99-i))
	}
	for _, row := range []struct {
		name    string
		samples []float64
		want    quantiles
	}{
		{"one", []float64{7}, quantiles{7, 7, 7, 7}},
		{"two", []float64{9, 1}, quantiles{9, 9, 9, 9}},
		{"hundred", hundred, quantiles{50, 99, 99, 99}},
		{"thousand", slices.Repeat(append(slices.Repeat([]float64{1}, 98), 5, 9), 10), quantiles{1, 9, 9, 9}},
	} {
		if got := quantilesOf(row.samples); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
}

// TestAges: the age grows from what it was when a point was acknowledged to the next acknowledgement.
func TestAges(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, int64(s*1e9)) }
	points := []ackedPoint{{at: at(0), acked: at(1)}, {at: at(5), acked: at(7)}}
	ages := agesOver(points, at(0.5), at(8))
	// From 1 s on a point is there: 6 s of the first one's, aged 1 to 7 s, and 1 s of the second's, aged 2 to 3 s.
	if len(ages) != 700 {
		t.Fatalf("%d ages", len(ages))
	}
	for i, want := range map[int]float64{0: 1, 599: 6.99, 600: 2, 699: 2.99} {
		if got := ages[i]; got < want-0.001 || got > want+0.001 {
			t.Errorf("age %d is %v, want %v", i, got, want)
		}
	}
}

func TestParseLatency(t *testing.T) {
	const good = `{"jobs":[{"error":0,"write":{"clat_ns":{"max":9000000,"percentile":{"50.000000":20000,"99.000000":1500000,"99.900000":3000000}}}}]}`
	if got, err := parseLatency(good); err != nil || got != (quantiles{20e3 / 1e9, 1.5e6 / 1e9, 3e6 / 1e9, 9e6 / 1e9}) {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "{}", strings.Replace(good, `"error":0`, `"error":5`, 1), strings.Replace(good, "9000000", "0", 1)} {
		if _, err := parseLatency(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

// TestTake reads the points of a window off the log: those before and after it, parts, and an earlier agent's are left out.
func TestTake(t *testing.T) {
	log := filepath.Join(t.TempDir(), "agent.log")
	line := func(second, point, frozen string) string {
		return "time=2026-01-01T00:00:" + second + `Z level=DEBUG msg="recovery point" disk=/dev/loop0 point=` + point +
			` class=crash changed="1 MiB" sent="1 MiB" residue="1 MiB" freezing=1ms reading=0.5ms frozen=` + frozen + "\n"
	}
	text := line("01.5", "3", "99ms") + line("10.5", "2", "1ms") + "other\n" + line("20.5", "3", "30ms") + line("25.5", "4", "1.5ms") + line("40.5", "5", "2ms")
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(s int) time.Time { return time.Date(2026, 1, 1, 0, 0, s, 0, time.UTC) }
	points := []rig.Point{
		{Seq: 1, Class: "none", Time: at(5), Payload: 1000},
		{Seq: 2, Class: "crash", Proven: true, Time: at(10), Payload: 1, Covered: 10},
		{Seq: 3, Class: "crash", Proven: true, Time: at(20), Payload: 2, Covered: 20},
		{Seq: 4, Class: "crash", Time: at(25), Payload: 4, Covered: 40},
		{Seq: 5, Class: "crash", Proven: true, Time: at(40), Payload: 8, Covered: 80},
	}
	var row turnRow
	if err := row.take(points, log, at(15), at(30)); err != nil {
		t.Fatal(err)
	}
	if row.Points != 2 || row.Unproven != 1 || row.Sent != 6 || row.Changed != 60 || !slices.Equal(row.Freezes, []float64{0.03, 0.0015}) ||
		!slices.Equal(row.Freezing, []float64{0.001, 0.001}) || !slices.Equal(row.Reading, []float64{0.0005, 0.0005}) {
		t.Errorf("took %+v", row)
	}
	if row.Ages.Most < 10.4 || row.Ages.Most > 10.6 { // of point 2, until point 3 is acknowledged
		t.Errorf("oldest %v", row.Ages.Most)
	}
	if err := new(turnRow).take(points, log, at(39), at(45)); err == nil {
		t.Error("one point passes for a measurement")
	}
}

func TestWithin(t *testing.T) {
	if got := within(1, 2) + ", " + within(4, 2); got != "reached, not reached, 2.00 times as much" {
		t.Error(got)
	}
}
