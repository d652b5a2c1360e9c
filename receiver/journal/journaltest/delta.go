package journaltest

import (
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// Frame is an encoded frame without its number.
type Frame struct {
	Header  block.FrameHeader
	Payload []byte
}

// Delta is a whole delta, ready to be written.
type Delta struct {
	Header block.DeltaHeader
	Frames []Frame
	Seal   block.Seal
}

// Finish numbers the frames and fills in the seal's counts and digest.
func (d *Delta) Finish(c block.Codec) {
	d.Seal.Seq, d.Seal.Frames, d.Seal.Payload, d.Seal.Covered = d.Header.Seq, uint64(len(d.Frames)), 0, 0
	chain := block.NewChain(c, d.Header)
	for i := range d.Frames {
		f := &d.Frames[i]
		f.Header.Number = uint32(i)
		d.Seal.Payload += block.Size(len(f.Payload))
		d.Seal.Covered += f.Header.Range.Len
		chain.Write(f.Raw())
	}
	d.Seal.Digest = chain.Seal(d.Seal)
}

// Raw is the frame as it travels.
func (f *Frame) Raw() []byte { return append(f.Header.Append(nil), f.Payload...) }

// Write appends and commits the delta.
func (d *Delta) Write(j *journal.Journal) error {
	w, err := j.Begin(d.Header)
	if err != nil {
		return err
	}
	for i := range d.Frames {
		if err := w.Append(d.Frames[i].Header, d.Frames[i].Raw()); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Commit(d.Seal)
}
