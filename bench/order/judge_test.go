package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// history is what some lanes did, by a clock of its own: no disk, no hurry.
type history struct {
	lanes  []lane
	writes []write
	ledger *ledger
	end    int64
}

// write is one slot written.
type write struct {
	stamp
	acked int64
}

// testLanes are a relay of a ring and a log, and one lane of each kind that writes at will.
func testLanes() []lane {
	return []lane{
		{Path: "ring", Unit: 512, Slots: 8, Epoch: 1, After: 1},
		{Path: "log", Unit: 4096, Slots: 4, Epoch: 2, Log: true, After: 0},
		{Path: "free", Unit: 4096, Slots: 16, Epoch: 4, After: -1},
		{Path: "freelog", Unit: 512, Slots: 8, Epoch: 4, Log: true, After: -1},
	}
}

// newHistory lets the lanes write by turns that the seed chooses: their epochs overlap, those of the relay do not.
func newHistory(random *rand.Rand, steps int) *history {
	h := &history{lanes: testLanes(), end: 1000}
	h.ledger = newLedger(len(h.lanes))
	epochs, busy, holder := make([]uint64, len(h.lanes)), make([]int, len(h.lanes)), 0
	for range steps {
		h.end += 1 + random.Int64N(50)
		i := random.IntN(len(h.lanes))
		l := &h.lanes[i]
		if l.After >= 0 && i != holder {
			continue
		}
		if busy[i] < int(l.Epoch) {
			h.begin(random, i, epochs[i]*l.Epoch+uint64(busy[i])+1, epochs)
			busy[i]++
			continue
		}
		epochs[i]++
		busy[i] = 0
		h.acknowledge(i, epochs[i])
		if l.After >= 0 {
			holder = 1 - holder
		}
	}
	return h
}

func (h *history) begin(_ *rand.Rand, i int, seq uint64, epochs []uint64) {
	l := &h.lanes[i]
	s := stamp{lane: i, seq: seq, slot: l.slotOf(seq), begun: h.end, after: -1}
	if l.After >= 0 && epochs[l.After] > 0 {
		s.after, s.afterEpoch = l.After, epochs[l.After]
	}
	h.writes = append(h.writes, write{stamp: s, acked: 1 << 62})
}

func (h *history) acknowledge(i int, epoch uint64) {
	for n := range h.writes {
		if w := &h.writes[n]; w.lane == i && h.lanes[i].epochOf(w.seq) == epoch {
			w.acked = h.end
		}
	}
	if err := h.ledger.add(entry{lane: i, epoch: epoch, acked: h.end, wall: h.end}); err != nil {
		panic(err)
	}
}

// disk writes out what a device holds that took part of every write for which there says so.
func (h *history) disk(t *testing.T, there func(w write, part int) bool) string {
	t.Helper()
	root := t.TempDir()
	files := map[string][]byte{}
	for i := range h.lanes {
		if l := &h.lanes[i]; !l.Log {
			files[l.Path] = make([]byte, int(l.Slots)*l.Unit)
		}
	}
	for _, w := range h.writes {
		l := &h.lanes[w.lane]
		name, slot := l.Path, w.slot
		if l.Log {
			name, slot = l.file(w.slot/l.Slots), w.slot%l.Slots
		}
		for part := range l.Unit / sectorSize {
			if !there(w, part) {
				continue
			}
			at := int(slot)*l.Unit + part*sectorSize
			if need := at + sectorSize - len(files[name]); need > 0 {
				files[name] = append(files[name], make([]byte, need)...)
			}
			w.part = part
			w.put(files[name][at : at+sectorSize])
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(root, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func (h *history) judge(t *testing.T, root string, at int64) verdict {
	t.Helper()
	copies := make([]held, len(h.lanes))
	for i := range h.lanes {
		var err error
		if copies[i], err = h.lanes[i].readHeld(i, root); err != nil {
			t.Fatal(err)
		}
	}
	return judge(h.lanes, copies, h.ledger, time.Unix(0, at))
}

// crash is a device that a crash at an instant left: of what was under way, chance chooses.
func crash(random *rand.Rand, instant int64) func(write, int) bool {
	return func(w write, _ int) bool {
		return w.acked <= instant || w.begun < instant && random.IntN(2) == 0
	}
}

// TestCrashStatesPass: whatever a crash at one instant may leave is in order, for every point's time before it.
func TestCrashStatesPass(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 1))
		h := newHistory(random, 400)
		for range 6 {
			instant := random.Int64N(h.end + 100)
			if v := h.judge(t, h.disk(t, crash(random, instant)), instant-random.Int64N(2)); len(v.violations) > 0 {
				t.Fatalf("seed %d, instant %d: %v", seed, instant, v.violations)
			}
		}
	}
}

// TestNoInstant cuts the lanes at two instants. It must be found out exactly where a lane holds something that was begun after
// the acknowledgement of what another lacks: the rule is worked out here from the history, not from the copy.
func TestNoInstant(t *testing.T) {
	found, passed := 0, 0
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 2))
		h := newHistory(random, 120)
		early, late := random.Int64N(h.end), random.Int64N(h.end)
		cut := func(w write) int64 { return []int64{early, late}[w.lane%2] }
		there := func(w write, _ int) bool { return w.begun < cut(w) }
		latest, earliest := int64(0), int64(1<<62)
		for _, w := range h.writes {
			if there(w, 0) && !overwritten(h, w, there) {
				latest = max(latest, w.begun)
			} else if !there(w, 0) {
				earliest = min(earliest, w.acked)
			}
		}
		v := h.judge(t, h.disk(t, there), 0)
		if want := latest > earliest; v.has(ruleInstant) != want {
			t.Fatalf("seed %d: latest begin %d, earliest acknowledgement of what lacks %d; judged %v", seed, latest, earliest, v.violations)
		} else if want {
			found++
		} else {
			passed++
		}
	}
	if found < 50 || passed < 20 {
		t.Errorf("%d were found out and %d passed: the cuts prove too little", found, passed)
	}
}

// overwritten tells whether a later turn of its slot is there too.
func overwritten(h *history, w write, there func(write, int) bool) bool {
	return !h.lanes[w.lane].Log && slices.ContainsFunc(h.writes, func(o write) bool {
		return o.lane == w.lane && o.slot == w.slot && o.seq > w.seq && there(o, 0)
	})
}

// breach is one way to break a good copy, and the rules that must find it.
type breach struct {
	name  string
	there func(h *history) func(write, int) bool
	spoil func(t *testing.T, h *history, root string)
	want  []rule
}

func allThere(write, int) bool { return true }

// newest is a lane's newest acknowledged epoch but so many.
func (h *history) newest(lane int, but uint64) uint64 { return uint64(len(h.ledger.lanes[lane])) - but }

// torn are breaches by sectors that are not what they should be.
func torn() []breach {
	return []breach{
		{name: "nothing", there: func(*history) func(write, int) bool { return allThere }},
		{name: "flipped bit", spoil: flip("ring", 100), want: []rule{ruleTorn}},
		{name: "flipped bit of a log", spoil: flip("log.*", 4096+513), want: []rule{ruleTorn}},
		{name: "half a sector", spoil: func(t *testing.T, _ *history, root string) {
			change(t, filepath.Join(root, "free"), func(b []byte) { clear(b[256:512]) })
		}, want: []rule{ruleTorn}},
		{name: "sector of another place", spoil: func(t *testing.T, _ *history, root string) {
			change(t, filepath.Join(root, "free"), func(b []byte) { copy(b[4096:], b[:4096]) })
		}, want: []rule{ruleTorn}},
		{name: "sector of another part", spoil: func(t *testing.T, _ *history, root string) {
			change(t, filepath.Join(root, "free"), func(b []byte) { copy(b[512:1024], b[:512]) })
		}, want: []rule{ruleTorn}},
		{name: "epoch that nobody began", spoil: func(t *testing.T, h *history, root string) {
			l := &h.lanes[2]
			s := stamp{lane: 2, seq: 16*l.Slots*100 + 1, after: -1, begun: 1}
			s.slot = l.slotOf(s.seq)
			change(t, filepath.Join(root, "free"), func(b []byte) { s.put(b[int(s.slot)*4096:]) })
		}, want: []rule{ruleTorn}},
	}
}

// lacking are breaches by what is not there.
func lacking() []breach {
	return []breach{
		{name: "sector of the last epoch but one lacks", there: func(h *history) func(write, int) bool {
			lost := h.newest(2, 1)
			return func(w write, part int) bool {
				return w.lane != 2 || h.lanes[2].epochOf(w.seq) != lost || part != 3 || w.seq%4 != 1
			}
		}, want: []rule{ruleBarrier, ruleInstant, rulePromise}},
		{name: "epoch of a log lacks within", there: func(h *history) func(write, int) bool {
			lost := h.newest(3, 1)
			return func(w write, _ int) bool { return w.lane != 3 || h.lanes[3].epochOf(w.seq) != lost }
		}, want: []rule{ruleBarrier, rulePromise}},
		{name: "what was written before the token lacks", there: func(h *history) func(write, int) bool {
			lost := h.newest(0, 0)
			if h.writes[len(h.writes)-1].lane == 0 {
				lost--
			}
			return func(w write, _ int) bool { return w.lane != 0 || h.lanes[0].epochOf(w.seq) < lost }
		}, want: []rule{ruleToken, ruleInstant, rulePromise}},
		{name: "acknowledged, and all gone from every lane since", there: func(h *history) func(write, int) bool {
			return func(w write, _ int) bool { return w.begun < h.end/2 }
		}, want: []rule{rulePromise}},
		{name: "a log's files are gone", spoil: func(t *testing.T, _ *history, root string) {
			names, _ := filepath.Glob(filepath.Join(root, "log.*"))
			for _, name := range names {
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}, want: []rule{ruleToken, ruleInstant, rulePromise}},
		{name: "a log's last file but one is gone", spoil: func(t *testing.T, h *history, root string) {
			newest, _ := h.lanes[1].newestFile(root)
			if err := os.Remove(filepath.Join(root, h.lanes[1].file(uint64(newest-1)))); err != nil {
				t.Fatal(err)
			}
		}, want: []rule{ruleBarrier, ruleToken, ruleInstant, rulePromise}},
		{name: "a log is cut", spoil: func(t *testing.T, h *history, root string) {
			newest, _ := h.lanes[1].newestFile(root)
			if err := os.Truncate(filepath.Join(root, h.lanes[1].file(uint64(newest-1))), 4096+100); err != nil {
				t.Fatal(err)
			}
		}, want: []rule{ruleTorn, ruleBarrier, ruleToken, ruleInstant, rulePromise}},
	}
}

// TestEachRule breaks a good copy in one way after another. Each must be found by the rule that stands for it.
func TestEachRule(t *testing.T) {
	for _, row := range append(torn(), lacking()...) {
		t.Run(row.name, func(t *testing.T) {
			h := newHistory(rand.New(rand.NewPCG(7, 7)), 600)
			there := allThere
			if row.there != nil {
				there = row.there(h)
			}
			root := h.disk(t, there)
			if row.spoil != nil {
				row.spoil(t, h, root)
			}
			v := h.judge(t, root, h.end)
			for _, r := range row.want {
				if !v.has(r) {
					t.Errorf("%s was not found: %v", r, v.violations)
				}
			}
			if len(row.want) == 0 && len(v.violations) > 0 {
				t.Errorf("found %v", v.violations)
			}
		})
	}
}

func flip(pattern string, at int) func(*testing.T, *history, string) {
	return func(t *testing.T, _ *history, root string) {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(names) == 0 {
			t.Fatal(err, names)
		}
		change(t, names[len(names)-1], func(b []byte) { b[at%len(b)] ^= 4 })
	}
}

func change(t *testing.T, path string, how func([]byte)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	how(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStamp: what is put is read, and a bit that is changed anywhere is seen.
func TestStamp(t *testing.T) {
	want := stamp{lane: 3, part: 5, seq: 77, slot: 12, begun: 99, after: 2, afterEpoch: 41}
	b := make([]byte, sectorSize)
	if s, err := readStamp(b); err != nil || s.seq != 0 {
		t.Errorf("an empty sector: %+v %v", s, err)
	}
	want.put(b)
	if got, err := readStamp(b); err != nil || got != want {
		t.Errorf("read %+v %v", got, err)
	}
	for bit := range sectorSize * 8 {
		spoiled := bytes.Clone(b)
		spoiled[bit/8] ^= 1 << (bit % 8)
		if _, err := readStamp(spoiled); !errors.Is(err, errTorn) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
}

func TestLedger(t *testing.T) {
	var b bytes.Buffer
	put := func(e entry) { var raw [entrySize]byte; e.put(raw[:]); b.Write(raw[:]) }
	put(entry{lane: readyLane})
	put(entry{lane: 1, epoch: 1, acked: 5, wall: 6})
	b.WriteString("cut off")
	l := newLedger(2)
	if err := l.read(&b); err != nil {
		t.Fatal(err)
	}
	if e, ok := l.acked(1, 1); !ok || e != (entry{1, 1, 5, 6}) || l.total() != 1 {
		t.Errorf("read %+v %v", e, ok)
	}
	for _, row := range []struct {
		lane  int
		epoch uint64
		begun bool
	}{{0, 1, true}, {0, 2, false}, {1, 2, true}, {1, 3, false}} {
		if got := l.begun(row.lane, row.epoch); got != row.begun {
			t.Errorf("lane %d, epoch %d begun: %v", row.lane, row.epoch, got)
		}
	}
	for _, e := range []entry{{lane: 1, epoch: 3}, {lane: 2, epoch: 1}, {lane: -1, epoch: 1}} {
		put(e)
		if err := newLedger(2).read(&b); err == nil || !strings.Contains(err.Error(), "out of turn") {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

// TestLanes: no two lanes of a stage, nor its noise, share a place, and every relay is one ring.
func TestLanes(t *testing.T) {
	for _, s := range stages {
		all, taken := lanesOn(s.kinds), map[string]int64{}
		relay := 0
		for i, l := range all {
			key := fmt.Sprint(l.Disk, l.Path)
			if end, ok := taken[key]; ok && (s.kinds[l.Disk] != "raw" || l.Base < end) {
				t.Errorf("%s: lane %d overlaps another", s.name, i)
			}
			taken[key] = l.Base + int64(l.Slots)*int64(l.Unit)
			for _, n := range noiseOn(s.kinds, all) {
				if n.Disk == l.Disk && n.Path == l.Path && n.Base < taken[key] && l.Base < n.Base+n.Size {
					t.Errorf("%s: lane %d reaches into the noise", s.name, i)
				}
			}
			if l.After >= 0 {
				relay++
			}
		}
		at, n := 0, 1
		for at = all[0].After; at != 0 && n <= len(all); at = all[at].After {
			n++
		}
		if n != relay || relay != 4*len(s.kinds) {
			t.Errorf("%s: the relay has %d lanes, %d of them in one ring", s.name, relay, n)
		}
	}
}
