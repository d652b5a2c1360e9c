package link

import "time"

// Every limit of a link. A peer is authenticated before any of the large ones counts.
const (
	// defaultHandshake bounds the time from a connection to the end of the hello, on both ends: a half-open or silent peer
	// costs a goroutine for so long.
	defaultHandshake = 10 * time.Second
	// maxHalfOpen is how many connections of a carrier may be on their way to a session at once, from all addresses.
	maxHalfOpen = 256
	// maxHalfOpenPerAddr is how many of them one address may have: a whole site behind one address connects in milliseconds
	// each, and one that is slow on purpose holds 1/16 of the places.
	maxHalfOpenPerAddr = 16
	// handshakeRate is how many handshakes an address may begin in a second, and handshakeBurst how many at once after a pause.
	// One costs about a millisecond of processor time; a thousand hosts behind one address are back within 20 s of an outage.
	handshakeRate, handshakeBurst = 50, 100
	// maxKnockers is how many addresses a listener remembers, about 100 bytes each.
	maxKnockers = 8192

	// maxSessions is how many sessions a peer may have at a listener: an agent has one, and those that its line broke of until
	// they are found dead.
	maxSessions = 8
	// peerMemory bounds what a peer may have sent on its streams, over all its TCP sessions, before anybody has read it: 16
	// streams at their window.
	peerMemory = 16 * tcpWindow
	// defaultIdle is after how long without a sign of life a session is given up. Keep-alives go out every third of it.
	defaultIdle = 20 * time.Second
	// standEvery is how often an end looks whether the peers of its sessions still stand: not revoked, of a CA that is trusted.
	standEvery = time.Second
	// folderEvery is how often a Keeper looks whether a file has changed. With standEvery it bounds how long a revoked peer
	// goes on.
	folderEvery = 2 * time.Second
	// farewell is how long Close waits until the peer has seen the reason.
	farewell = time.Second

	// maxStreams is how many streams a peer may have open, over all its sessions: a disk of a source has one and three more
	// while it is compared.
	maxStreams = 512
	// acceptBacklog is how many of those may wait for AcceptStream.
	acceptBacklog = 64

	// quicWindow is what may be in flight on a stream: 1 Gbit/s at 500 ms, 10 Gbit/s at 50 ms. It grows to that by use.
	quicWindow = 64 << 20
	// quicConnWindow is what may be in flight on all streams together.
	quicConnWindow = 96 << 20
	// quicFirstWindow is what a window starts with: the round trips that growing costs are felt on a long line.
	quicFirstWindow = 4 << 20

	// quicConnFirst is what the window of a whole connection starts with: what an end that is not known yet can make this one
	// hold, maxHalfOpen times at the worst.
	quicConnFirst = 1 << 20

	// tcpWindow is what may be in flight on a stream of the TCP carrier. What a slow reader has not fetched stays in
	// memory, in a buffer of up to twice this a stream, so it is smaller than QUIC's: 1 Gbit/s at 128 ms.
	tcpWindow = 16 << 20

	// lingerTimeout is for how long what was sent on a closed stream of the TCP carrier may still be read by the peer.
	lingerTimeout = 2 * time.Minute

	// sendBuffer gathers small frames and messages. A payload larger than what is left of it is filled up to it and the
	// rest is sent from where it lies: 1/8 of a frame of block.MaxFrameData is copied.
	sendBuffer = 32 << 10
	// receiveBuffer is for heads and small messages; larger reads go past it.
	receiveBuffer = 32 << 10
	// recordBatch is how many bytes of TLS records go to the kernel in one call.
	recordBatch = 128 << 10
	// growStep bounds what is set aside for a message on the peer's word alone; more comes as the bytes do.
	growStep = 64 << 10

	// maxReason is how much of an error's text travels in the close of a QUIC connection, which has to fit in a packet.
	maxReason = 900
)

// defaultGate is what a listener lets begin a handshake on each carrier.
var defaultGate = gateLimits{open: maxHalfOpen, openPerAddr: maxHalfOpenPerAddr, rate: handshakeRate, burst: handshakeBurst, sources: maxKnockers}
