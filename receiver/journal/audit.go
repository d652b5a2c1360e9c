package journal

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/understudy-dr/understudy/internal/block"
)

// Audit is what reading everything that is stored of a disk found.
type Audit struct {
	Deltas int         `json:"deltas"`        // files of the journal that were read
	Bytes  block.Size  `json:"journal_bytes"` // of those
	Tip    Tip         `json:"tip"`           // where the chain of digests ends
	Volume VolumeAudit `json:"volume"`
	Damage []Damage    `json:"damage,omitempty"`
}

// VolumeAudit is what reading the volume found.
type VolumeAudit struct {
	Seq        block.Seq     `json:"seq"`                  // the delta that it stands at
	Size       block.Size    `json:"size_bytes"`           // of the disk as of that delta
	Digest     *block.Digest `json:"digest,omitempty"`     // BLAKE3 over that content; none if not all could be read, or it stands between two deltas
	Unreadable []block.Range `json:"unreadable,omitempty"` // in blocks of 4 KiB
	Error      string        `json:"error,omitempty"`      // of the first that could not be read
}

// Damage is a part of a file that is not what was stored.
type Damage struct {
	File   string       `json:"file"`
	Offset block.Offset `json:"offset"`
	Seq    block.Seq    `json:"seq,omitempty"`
	Reason string       `json:"reason"`
	err    error
}

// Clean tells whether all was read and right.
func (a *Audit) Clean() bool { return len(a.Damage) == 0 && len(a.Volume.Unreadable) == 0 }

// Err is the first damage of the journal that is sure, a *block.CorruptionError, nil if there is none: a read that failed may work
// the next time.
func (a *Audit) Err() error {
	for _, d := range a.Damage {
		if errors.As(d.err, new(*block.CorruptionError)) {
			return d.err
		}
	}
	return nil
}

// maxUnreadable bounds the ranges that a report lists.
const maxUnreadable = 1000

// Audit reads every byte that is stored: the records, all deltas, each against its checksums, its digest and the digest of the
// delta before it, and the volume, which has no checksums: of that it tells what can't be read, and a digest of the rest, to
// hold against another copy. It does not end with the first damage. As long as it runs, nothing is folded, and no file that it has
// yet to read is removed. An error of progress, which hears of bytes, ends it.
func (j *Journal) Audit(ctx context.Context, progress func(done, total block.Size) error) (*Audit, error) {
	a := &auditor{j: j, ctx: ctx, progress: progress}
	if err := j.Fold(ctx, j.Usage().Folded); err != nil { // what was begun and not ended would leave the volume in between
		if ctx.Err() != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		a.note(j.dir, err)
	}
	release := a.hold()
	defer release()
	if err := a.run(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &a.report, nil
}

// auditor is an audit under way.
type auditor struct {
	j           *Journal
	ctx         context.Context
	progress    func(done, total block.Size) error
	report      Audit
	deltas      []*delta
	settled     bool // the volume stands at one delta
	done, total block.Size
}

// hold takes hold of all files, and of the volume's position: a view of it keeps it where it is.
func (a *auditor) hold() (release func()) {
	j := a.j
	j.mu.Lock()
	defer j.mu.Unlock()
	v := &View{j: j, seq: j.pos.Target}
	j.views[v]++
	for _, d := range j.deltas {
		d.refs++
		a.total += d.foot.size
	}
	a.deltas = append(a.deltas, j.deltas...)
	a.report.Tip = j.tip()
	a.report.Volume.Seq, a.report.Volume.Size = j.pos.Seq, j.pos.Size
	a.settled = j.pos.Target == j.pos.Seq
	if j.volume != nil {
		a.total += j.pos.Size
	}
	if j.damage != nil {
		a.note(j.dir, j.damage)
	}
	return func() {
		j.mu.Lock()
		delete(j.views, v)
		j.mu.Unlock()
		_ = j.unref(a.deltas) // a file that stays is removed by the next Open
	}
}

// note adds damage, or what could not be read, of a file.
func (a *auditor) note(file string, err error) {
	d := Damage{File: file, Reason: err.Error(), err: err}
	if c := (*block.CorruptionError)(nil); errors.As(err, &c) {
		d.File, d.Offset, d.Seq, d.Reason = c.File, c.Off, c.Seq, c.Err.Error()
	}
	for _, known := range a.report.Damage {
		if known.File == d.File && known.Offset == d.Offset {
			return
		}
	}
	a.report.Damage = append(a.report.Damage, d)
}

// advance tells how far it is.
func (a *auditor) advance(n block.Size) error {
	a.done += n
	if a.progress == nil {
		return a.ctx.Err()
	}
	return errors.Join(a.ctx.Err(), a.progress(a.done, a.total))
}

func (a *auditor) run() error {
	if err := a.j.checkRecords(); err != nil {
		a.note(a.j.dir, err)
	}
	for i, d := range a.deltas {
		if i > 0 && d.header.Parent != a.deltas[i-1].seal.Digest {
			a.note(d.path, d.corrupt(0, fmt.Errorf("does not follow %v: %w", a.deltas[i-1].header.Seq, block.ErrMalformed)))
		}
		if err := a.j.checkHeld(a.ctx, d); err != nil {
			if a.ctx.Err() != nil {
				return a.ctx.Err()
			}
			a.note(d.path, err)
		}
		a.report.Deltas++
		a.report.Bytes += d.foot.size
		if err := a.advance(d.foot.size); err != nil {
			return err
		}
	}
	if a.j.volume == nil {
		return nil
	}
	return a.readVolume()
}

// readVolume reads all of the volume that counts.
func (a *auditor) readVolume() error {
	v := &a.report.Volume
	digest := a.j.codec.NewDigest()
	buf := block.AlignedBuffer(block.MiB)
	for off := block.Offset(0); block.Size(off) < v.Size; {
		n := min(block.MiB, v.Size-block.Size(off))
		if err := a.readRange(buf[:n], off); err != nil {
			a.readBlocks(buf[:n], off)
		}
		digest.Write(buf[:n])
		off += block.Offset(n)
		if err := a.advance(n); err != nil {
			return err
		}
	}
	if len(v.Unreadable) == 0 && a.settled {
		v.Digest = new(block.Digest)
		digest.Sum(v.Digest[:0])
	}
	return nil
}

func (a *auditor) readRange(p []byte, off block.Offset) error {
	n, err := a.j.volume.ReadAt(p, int64(off))
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// readBlocks finds out what of a range can't be read.
func (a *auditor) readBlocks(p []byte, off block.Offset) {
	v := &a.report.Volume
	for len(p) > 0 {
		n := min(len(p), int(block.DefaultBlockSize))
		if err := a.readRange(p[:n], off); err != nil {
			if v.Error == "" {
				v.Error = err.Error()
			}
			a.unreadable(block.Range{Off: off, Len: block.Size(n)})
		}
		p, off = p[n:], off+block.Offset(n)
	}
}

// unreadable adds a range to the list; when that is full, the last one reaches over all that follow.
func (a *auditor) unreadable(r block.Range) {
	list := a.report.Volume.Unreadable
	if n := len(list); n > 0 && (list[n-1].End() == r.Off || n == maxUnreadable) {
		list[n-1].Len = block.Size(r.End() - list[n-1].Off)
		return
	}
	a.report.Volume.Unreadable = append(list, r)
}
