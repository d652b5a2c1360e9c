package journal_test

import (
	"flag"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
	"github.com/understudy-dr/understudy/receiver/volume/volumetest"
)

var (
	everySteps   = flag.Int("crash.steps", 120, "steps of the history of TestCrashAfterEachOperation")
	everySubsets = flag.Int("crash.subsets", 2, "selections of what was not synced that are tried after each operation")
)

// TestCrashAfterEachOperation plays one long history, and after each operation that changes disk or volume loses the power on
// copies of both, with several selections of the sectors and names that were not synced. Each copy must open, hold all that
// was acknowledged, and go on.
func TestCrashAfterEachOperation(t *testing.T) {
	c := newCrasher(t, 77)
	e := &everywhere{crasher: c, places: map[string]int{}}
	c.fs.Fail = func(op journaltest.Op, _ string) error {
		e.at(op != journaltest.OpRead && op != journaltest.OpReadDir)
		return nil
	}
	c.dev.Fail = func(op volumetest.Op, _ block.Range) error {
		e.at(op != volumetest.OpRead)
		return nil
	}
	for range *everySteps {
		c.step()
		e.at(true)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d operations, %d crashes: %v", e.operations, e.crashes, e.places)
	if *everySteps < 120 {
		return
	}
	// The canary: these are what the crash argument tells apart.
	for _, place := range []string{
		"a delta half written", "a delta without its ack", "a record half replaced", "a fold half done", "a folded delta left",
		"a merge half written", "a merge beside its parts", "a merge beside some of its parts",
	} {
		if e.places[place] == 0 {
			t.Errorf("no crash left %s", place)
		}
	}
}

// everywhere crashes copies of a history.
type everywhere struct {
	*crasher
	changed    bool // since the last look
	operations int
	crashes    int
	places     map[string]int
}

// at is called before each operation and tells whether that changes anything.
func (e *everywhere) at(changes bool) {
	e.t.Helper()
	if e.changed && !e.t.Failed() {
		for n := range *everySubsets {
			e.twin(uint64(e.operations*100 + n)).lose(e)
		}
	}
	if e.changed = changes; changes {
		e.operations++
	}
}

// twin is a copy of disk, volume and model, with power that stays.
func (e *everywhere) twin(seed uint64) *crasher {
	w := *e.world
	w.rng = rand.New(rand.NewPCG(seed, 11))
	w.fs, w.vol, w.states = e.fs.Clone(), e.vol.Clone(), maps.Clone(e.states)
	w.dev = &volumetest.Failing{Device: w.vol, Fail: func(volumetest.Op, block.Range) error { return nil }}
	return &crasher{
		world: &w, left: -1, acked: e.acked, unacked: maps.Clone(e.unacked), gone: maps.Clone(e.gone),
		pinned: maps.Clone(e.pinned), pinning: maps.Clone(e.pinning),
	}
}

// lose crashes the twin, looks at what that left, and goes on with what it has.
func (c *crasher) lose(e *everywhere) {
	c.t.Helper()
	e.crashes++
	c.fs.Crash(c.rng)
	c.vol.Crash(c.rng)
	for _, place := range c.remains() {
		e.places[place]++
	}
	survived, redone := c.recovered()
	if survived > 0 {
		e.places["a delta without its ack"]++
	}
	if redone > 0 {
		e.places["a fold half done"]++
	}
	for range c.rng.IntN(3) {
		c.step()
	}
	c.compare()
}

// remains names what a crash left in the directory.
func (c *crasher) remains() (places []string) {
	names, err := c.fs.ReadDir(testDir)
	if err != nil {
		c.t.Fatal(err)
	}
	raw, err := readFile(c.fs, testDir+"/folded.json")
	if err != nil {
		c.t.Fatal(err)
	}
	folded := seqAfter(string(raw), `"seq":`)
	for _, name := range names {
		first, last, several := strings.Cut(strings.TrimSuffix(name, ".delta"), "-")
		switch {
		case strings.HasSuffix(name, ".tmp"):
			places = append(places, "a record half replaced")
		case strings.HasSuffix(name, ".open") && several:
			places = append(places, "a merge half written")
		case strings.HasSuffix(name, ".open"):
			places = append(places, "a delta half written")
		case strings.HasSuffix(name, ".delta") && !several && seqAfter(first, "") <= folded:
			places = append(places, "a folded delta left")
		case strings.HasSuffix(name, ".delta") && several && seqAfter(first, "") > folded:
			parts := 0
			for seq := seqAfter(first, ""); seq <= seqAfter(last, ""); seq++ {
				if c.fs.Size(c.file(seq)) >= 0 {
					parts++
				}
			}
			if n := int(seqAfter(last, "")-seqAfter(first, "")) + 1; parts == n {
				places = append(places, "a merge beside its parts")
			} else if parts > 0 {
				places = append(places, "a merge beside some of its parts")
			}
		}
	}
	return places
}

// seqAfter reads the number that follows prefix in text.
func seqAfter(text, prefix string) block.Seq {
	_, rest, _ := strings.Cut(text, prefix)
	var n block.Seq
	for _, r := range rest {
		if r < '0' || r > '9' {
			break
		}
		n = n*10 + block.Seq(r-'0')
	}
	return n
}
