package agent

import (
	"sync"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// outlet is where a delta goes: one disk's stream of a link session. Payloads are used before a call returns.
type outlet interface {
	SendDeltaHeader(h block.DeltaHeader) error
	SendFrame(h block.FrameHeader, payload []byte) error
	SendSeal(s block.Seal) error
	Flush() error
}

// delta is the open delta of a disk: it numbers the frames, counts them and computes the digest while they go out.
// put is safe for concurrent use; frames of overlapping ranges must be put in the order in which they were read.
type delta struct {
	out    outlet
	header block.DeltaHeader
	start  time.Time

	mu     sync.Mutex
	chain  *block.Chain
	raw    []byte // the encoded header of the frame under way
	number uint32
	seal   block.Seal // its counts, as they grow
}

// beginDelta sends the header of a new delta.
func beginDelta(out outlet, codec block.Codec, h block.DeltaHeader) (*delta, error) {
	d := &delta{out: out, header: h, chain: block.NewChain(codec, h), start: time.Now()}
	d.seal.Seq = h.Seq
	return d, out.SendDeltaHeader(h)
}

// put sends one frame.
func (d *delta) put(h block.FrameHeader, payload []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	h.Number = d.number
	d.number++
	d.raw = h.Append(d.raw[:0])
	d.chain.Write(d.raw)
	d.chain.Write(payload)
	d.seal.Frames++
	d.seal.Payload += block.Size(len(payload))
	d.seal.Covered += h.Range.Len
	return d.out.SendFrame(h, payload)
}

// held is how many bytes of payload went out so far, and of how many bytes of the disk: zeroes have no payload.
func (d *delta) held() (payload, covered block.Size) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seal.Payload, d.seal.Covered
}

// finish completes the seal with what the caller knows of the point. It is not sent yet: the caller notes it first.
func (d *delta) finish(class block.Class, flags block.SealFlags, at time.Time, labels map[string]string) block.Seal {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seal.Class, d.seal.Flags, d.seal.Time, d.seal.Labels = class, flags, at.UTC(), labels
	d.seal.Digest = d.chain.Seal(d.seal)
	return d.seal
}
