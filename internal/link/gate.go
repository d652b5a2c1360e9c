package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// gate decides who may begin a handshake. Nobody is known yet, so all it can go by is where a connection comes from: each
// address has a rate and a number of half-open connections of its own, and when all places are taken, it is the address that
// holds the most that gives one up. So one address at its limits does not keep another out.
//
// An address is an IPv4 address, or the /64 of an IPv6 address, which is what one subscriber has.
type gate struct {
	limits gateLimits
	now    func() time.Time

	mu      sync.Mutex
	open    int
	sources map[netip.Prefix]*knocker
}

// gateLimits are in limits.go; tests have smaller ones.
type gateLimits struct {
	open, openPerAddr int // half-open connections
	rate, burst       int // handshakes of an address: in a second, and at once after a pause
	sources           int // addresses that are remembered
}

// knocker is what one address does.
type knocker struct {
	left  float64 // handshakes that it may begin now
	since time.Time
	open  []*ticket // oldest first
}

// ticket is the right to one half-open connection.
type ticket struct {
	gate *gate
	from netip.Prefix
	cut  func() // ends the connection; nil while there is no way to
}

var (
	errTooFast = errors.New("too many handshakes a second from this address")
	errTooMany = errors.New("too many half-open connections")
)

func newGate(limits gateLimits) *gate {
	return &gate{limits: limits, now: time.Now, sources: map[netip.Prefix]*knocker{}}
}

// admit lets a connection begin its handshake, or says why not. cut may be nil, and be set later.
func (g *gate) admit(addr net.Addr, cut func()) (*ticket, error) {
	t, victim, err := g.take(addr, cut)
	if victim != nil {
		victim()
	}
	return t, err
}

func (g *gate) take(addr net.Addr, cut func()) (t *ticket, victim func(), err error) {
	from := prefixOf(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.knocker(from)
	switch {
	case k.left < 1:
		return nil, nil, errTooFast
	case len(k.open) >= g.limits.openPerAddr:
		return nil, nil, fmt.Errorf("%w from this address", errTooMany)
	}
	k.left--
	if g.open >= g.limits.open {
		if victim = g.giveUp(k); victim == nil {
			return nil, nil, errTooMany
		}
	}
	t = &ticket{gate: g, from: from, cut: cut}
	k.open = append(k.open, t)
	g.open++
	return t, victim, nil
}

// giveUp frees the oldest place of the address that holds the most, if that is more than k would hold, and gives what ends
// its connection.
func (g *gate) giveUp(k *knocker) func() {
	var most *ticket
	held := len(k.open) + 1
	for _, other := range g.sources {
		if len(other.open) <= held {
			continue
		}
		if i := slices.IndexFunc(other.open, func(t *ticket) bool { return t.cut != nil }); i >= 0 {
			most, held = other.open[i], len(other.open)
		}
	}
	if most == nil {
		return nil
	}
	g.drop(most)
	return most.cut
}

// knocker is what is known of an address, brought up to now.
func (g *gate) knocker(from netip.Prefix) *knocker {
	now := g.now()
	k := g.sources[from]
	if k == nil {
		if len(g.sources) >= g.limits.sources {
			g.forget()
		}
		k = &knocker{left: float64(g.limits.burst), since: now}
		g.sources[from] = k
	}
	k.left = min(float64(g.limits.burst), k.left+now.Sub(k.since).Seconds()*float64(g.limits.rate))
	k.since = now
	return k
}

// forget makes room: half of the addresses that hold nothing open, whichever come first.
func (g *gate) forget() {
	n := len(g.sources) / 2
	for from, k := range g.sources {
		if n == 0 {
			return
		}
		if len(k.open) == 0 {
			delete(g.sources, from)
			n--
		}
	}
}

// drop takes a ticket out, if it is still in. It needs mu.
func (g *gate) drop(t *ticket) {
	k := g.sources[t.from]
	if k == nil {
		return
	}
	if i := slices.Index(k.open, t); i >= 0 {
		k.open = slices.Delete(k.open, i, i+1)
		g.open--
	}
}

// suspicious tells whether an address that may be forged should prove itself first, which costs it a round trip: when the
// gate, or the address, is at half of what it may. A forged one never does, so it can't use up the other half.
func (g *gate) suspicious(addr net.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.knocker(prefixOf(addr))
	return g.open >= g.limits.open/2 || len(k.open) >= g.limits.openPerAddr/2 || k.left < float64(g.limits.burst)/2
}

// release says that the connection is half-open no more. It may be called again.
func (t *ticket) release() {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.gate.drop(t)
}

// cuttable says how to end the connection, once there is a way.
func (t *ticket) cuttable(cut func()) {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.cut = cut
}

// prefixOf is the address that a peer is counted under.
func prefixOf(addr net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := at.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}
