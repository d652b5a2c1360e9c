package link

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func addr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1234} }

// clock is a time that a test sets.
func (g *gate) clock(t *time.Time) *gate {
	g.now = func() time.Time { return *t }
	return g
}

func TestAnAddressHasARate(t *testing.T) {
	now := time.Now()
	g := newGate(gateLimits{open: 100, openPerAddr: 100, rate: 10, burst: 5, sources: 10}).clock(&now)
	begin := func(ip string) (n int) {
		for {
			place, err := g.admit(addr(ip), nil)
			if err != nil {
				if !errors.Is(err, errTooFast) {
					t.Fatal(err)
				}
				return n
			}
			place.release()
			n++
		}
	}
	if n := begin("192.0.2.1"); n != 5 {
		t.Errorf("%d at once, 5 may be", n)
	}
	if n := begin("192.0.2.2"); n != 5 {
		t.Errorf("another address: %d", n)
	}
	now = now.Add(300 * time.Millisecond)
	if n := begin("192.0.2.1"); n != 3 {
		t.Errorf("%d after 0.3 s at 10 a second", n)
	}
	now = now.Add(time.Hour)
	if n := begin("192.0.2.1"); n != 5 {
		t.Errorf("%d after an hour", n)
	}
	if n := begin("2001:db8::1"); n != 5 {
		t.Errorf("IPv6: %d", n)
	}
	if n := begin("2001:db8::ffff:2"); n != 0 {
		t.Errorf("another address of one subscriber: %d", n)
	}
	if n := begin("::ffff:192.0.2.1"); n != 0 {
		t.Errorf("an IPv4 address in the clothes of IPv6: %d", n)
	}
}

func TestAnAddressHasSoManyHalfOpen(t *testing.T) {
	g := newGate(gateLimits{open: 100, openPerAddr: 3, rate: 1000, burst: 1000, sources: 10})
	var places []*ticket
	for range 3 {
		place, err := g.admit(addr("192.0.2.1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, place)
	}
	if _, err := g.admit(addr("192.0.2.1"), nil); !errors.Is(err, errTooMany) {
		t.Errorf("a fourth: %v", err)
	}
	if _, err := g.admit(addr("192.0.2.2"), nil); err != nil {
		t.Errorf("another address: %v", err)
	}
	places[0].release()
	places[0].release()
	if _, err := g.admit(addr("192.0.2.1"), nil); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	if _, err := g.admit(addr("192.0.2.1"), nil); !errors.Is(err, errTooMany) {
		t.Errorf("a release that was said twice made two places: %v", err)
	}
}

// TestAFullGateTakesFromWhoHoldsMost: whoever holds little gets in, at the cost of the oldest of whoever holds most.
func TestAFullGateTakesFromWhoHoldsMost(t *testing.T) {
	g := newGate(gateLimits{open: 10, openPerAddr: 8, rate: 1000, burst: 1000, sources: 100})
	var cut []string
	enter := func(ip, name string) error {
		_, err := g.admit(addr(ip), func() { cut = append(cut, name) })
		return err
	}
	for i := range 8 {
		if err := enter("192.0.2.1", fmt.Sprintf("hog %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 { // two places are left
		if err := enter(fmt.Sprintf("192.0.2.%d", 10+i), "honest"); err != nil {
			t.Fatalf("the %dth honest address: %v", i+1, err)
		}
	}
	if want := "[hog 0 hog 1 hog 2]"; fmt.Sprint(cut) != want {
		t.Errorf("cut: %v, want %s", cut, want)
	}
	if g.open != 10 {
		t.Errorf("%d are open", g.open)
	}
	// Where everybody holds one, nobody is thrown out for another.
	g = newGate(gateLimits{open: 3, openPerAddr: 8, rate: 1000, burst: 1000, sources: 100})
	cut = nil
	for i := range 3 {
		if err := enter(fmt.Sprintf("192.0.2.%d", 10+i), "one"); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter("192.0.2.20", "late"); !errors.Is(err, errTooMany) || len(cut) != 0 {
		t.Errorf("%v, cut %v", err, cut)
	}
}

// TestAForgedAddressCannotUseUpAnothers: from half of its rate on an address has to prove itself, which a forged one never
// does.
func TestAForgedAddressCannotUseUpAnothers(t *testing.T) {
	now := time.Now()
	g := newGate(gateLimits{open: 100, openPerAddr: 100, rate: 1, burst: 10, sources: 10}).clock(&now)
	victim := addr("192.0.2.1")
	forged := 0
	for range 50 {
		if g.suspicious(victim) {
			continue // it is asked to prove itself, and is never heard of again
		}
		place, err := g.admit(victim, nil)
		if err != nil {
			t.Fatal(err)
		}
		place.release()
		forged++
	}
	if forged == 0 || forged > 6 {
		t.Errorf("%d forged ones came through", forged)
	}
	if _, err := g.admit(victim, nil); err != nil {
		t.Errorf("the real one, having proven itself: %v", err)
	}
}

// TestTheGateKeepsCount does anything in any order: the counts are those of what is open, and within the limits.
func TestTheGateKeepsCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := gateLimits{open: 6, openPerAddr: 4, rate: 100, burst: 20, sources: 4}
		now := time.Now()
		g := newGate(limits).clock(&now)
		open := map[*ticket]int{} // with the number of its address
		var holding []*ticket
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "ms")) * time.Millisecond)
			if len(holding) > 0 && rapid.Bool().Draw(t, "release") {
				i := rapid.IntRange(0, len(holding)-1).Draw(t, "which")
				holding[i].release()
				delete(open, holding[i])
				holding = append(holding[:i], holding[i+1:]...)
			} else {
				n := rapid.IntRange(0, 9).Draw(t, "address")
				var mine *ticket
				mine, err := g.admit(addr(fmt.Sprintf("192.0.2.%d", n)), nil)
				if err == nil {
					mine.cuttable(func() { delete(open, mine) })
					open[mine] = n
					holding = append(holding, mine)
				}
			}
			each := map[int]int{}
			for _, n := range open {
				if each[n]++; each[n] > limits.openPerAddr {
					t.Fatalf("address %d has %d open", n, each[n])
				}
			}
			if g.open != len(open) || g.open > limits.open {
				t.Fatalf("%d are counted, %d are open", g.open, len(open))
			}
			if len(g.sources) > limits.sources+limits.open {
				t.Fatalf("%d addresses are remembered", len(g.sources))
			}
		}
	})
}

func TestOneNoisyPeerDoesNotHideAnother(t *testing.T) {
	var l LogLimit
	now := time.Now()
	for range 1000 {
		l.count("noisy", now)
	}
	if pass, _ := l.count("quiet", now); !pass {
		t.Error("a line about another peer was dropped")
	}
	if pass, _ := l.count("noisy", now); pass {
		t.Error("the noisy peer is not limited")
	}
	if pass, before := l.count("noisy", now.Add(2*logPeriod)); !pass || before != 1000+1-logLines {
		t.Errorf("after a pause: %v, %d dropped before", pass, before)
	}
	for i := range 10 * logPeers {
		l.count(fmt.Sprint(i), now)
	}
	if len(l.peers) > logPeers+1 {
		t.Errorf("%d peers are remembered", len(l.peers))
	}
}
