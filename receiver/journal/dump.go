package journal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Dump lists what is in a file of a journal, whatever its name: a delta, sealed or not, with every frame, or a record. With
// jsonOut it prints a JSON object a line. Every checksum is verified: what is right up to the first damage is printed, and the
// damage is returned, a *block.CorruptionError.
func Dump(w io.Writer, path string, c block.Codec, jsonOut bool) error {
	f, err := OS{}.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	defer f.Close()
	out := bufio.NewWriter(w)
	p := &printer{w: out, json: jsonOut}
	magic := make([]byte, 16)
	n, err := f.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("dump: %w", err)
	}
	switch head := string(magic[:n]); {
	case strings.HasPrefix(head, block.DeltaMagic):
		err = dumpDelta(p, f, path, c)
	case strings.HasPrefix(head, metaMagic):
		var m Meta
		err = dumpRecord(p, path, metaMagic, "journal", &m)
	case strings.HasPrefix(head, positionMagic):
		var pos position
		err = dumpRecord(p, path, positionMagic, "position", &pos)
	case strings.HasPrefix(head, pinsMagic):
		var pins pinList
		err = dumpRecord(p, path, pinsMagic, "pins", &pins)
	default:
		err = fmt.Errorf("%s is no file of a journal: it begins with %q", path, head)
	}
	if err = errors.Join(err, p.err, out.Flush()); err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	return nil
}

// printer prints one item a line, as text or as JSON with its kind in "is".
type printer struct {
	w    io.Writer
	json bool
	err  error
}

func (p *printer) item(kind string, v any, format string, args ...any) {
	if p.err != nil {
		return
	}
	if !p.json {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
		return
	}
	body, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(p.w, "{\"is\":%q,%s\n", kind, body[1:])
	}
	p.err = err
}

func dumpRecord(p *printer, path, magic, kind string, v any) error {
	if err := readRecord(OS{}, path, magic, v); err != nil {
		return err
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	p.item(kind, v, "%s, version %d: %s", kind, Version, text)
	return nil
}

// What Dump prints of a delta with jsonOut.
type (
	dumpedHeader struct {
		Disk       block.DiskID     `json:"disk"`
		Seq        block.Seq        `json:"seq"`
		Generation block.Generation `json:"generation"`
		BlockSize  block.BlockSize  `json:"block_size"`
		DiskSize   block.Size       `json:"disk_size_bytes"`
		Parent     block.Digest     `json:"parent"`
	}
	dumpedFrame struct {
		Number  uint32       `json:"number"`
		At      block.Offset `json:"at"` // in the file
		Kind    string       `json:"kind"`
		Coding  string       `json:"coding,omitempty"`
		Off     block.Offset `json:"offset"` // on the disk
		Len     block.Size   `json:"length"`
		Payload uint32       `json:"payload_bytes"`
		Sum     string       `json:"sum,omitempty"`
	}
	dumpedIndex struct {
		At      block.Offset `json:"at"`
		Entries uint64       `json:"entries"`
	}
	dumpedSeal struct {
		At      block.Offset      `json:"at"`
		Class   block.Class       `json:"class"`
		Proven  bool              `json:"proven"`
		Time    time.Time         `json:"time"`
		Frames  uint64            `json:"frames"`
		Payload block.Size        `json:"payload_bytes"`
		Covered block.Size        `json:"covered_bytes"`
		Labels  map[string]string `json:"labels,omitempty"`
		Digest  block.Digest      `json:"digest"`
	}
	dumpedMerge struct {
		At      block.Offset `json:"at"`
		First   block.Seq    `json:"first"`
		Last    block.Seq    `json:"last"`
		Frames  uint64       `json:"frames"`
		Payload block.Size   `json:"payload_bytes"`
		Covered block.Size   `json:"covered_bytes"`
		Digest  block.Digest `json:"digest"`
	}
	dumpedFooter struct {
		At      block.Offset `json:"at"`
		IndexAt block.Offset `json:"index_at"`
		SealAt  block.Offset `json:"seal_at"`
		MergeAt block.Offset `json:"merge_at"`
		Size    block.Size   `json:"file_bytes"`
	}
)

func dumpDelta(p *printer, f File, path string, c block.Codec) error {
	d := &delta{path: path}
	if strings.HasSuffix(path, openSuffix) {
		return dumpUnsealed(p, f, d, c)
	}
	if err := d.readEnds(f); err != nil {
		return err
	}
	p.header(d.header)
	if err := d.walk(context.Background(), f, c, p.frame); err != nil {
		return err
	}
	if err := d.readIndex(f, func(uint64, indexEntry) error { return nil }); err != nil {
		return err
	}
	p.item("index", dumpedIndex{d.foot.indexAt, d.held.frames}, "%10d  index of %d frames", d.foot.indexAt, d.held.frames)
	p.seal(d)
	if d.merged() {
		p.merge(d)
	}
	at := d.foot.at()
	p.item("footer", dumpedFooter{at, d.foot.indexAt, d.foot.sealAt, d.foot.mergeAt, d.foot.size},
		"%10d  footer: index at %d, seal at %d, merge at %d, file of %d bytes", at, d.foot.indexAt, d.foot.sealAt, d.foot.mergeAt, int64(d.foot.size))
	return nil
}

// dumpUnsealed prints the frames of a delta that is being written. It may end anywhere.
func dumpUnsealed(p *printer, f File, d *delta, c block.Codec) error {
	raw := make([]byte, block.DeltaHeaderSize)
	err := d.readFull(f, raw, 0, 0)
	if err == nil {
		d.header, err = block.ParseDeltaHeader(raw)
	}
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	p.header(d.header)
	d.foot.indexAt = block.Offset(size)
	w := newWalker(d, f, c)
	for w.pos < d.foot.indexAt && err == nil {
		err = w.next(p.frame)
	}
	p.item("unsealed", struct {
		At block.Offset `json:"at"`
	}{w.pos}, "%10d  not sealed: what follows is not whole yet", w.pos)
	return nil
}

func (p *printer) header(h block.DeltaHeader) {
	p.item("header", dumpedHeader{h.Disk, h.Seq, h.Generation, h.BlockSize, h.DiskSize, h.Parent},
		"%10d  delta %v of disk %v, generation %d\n%10s  disk of %d bytes in blocks of %d\n%10s  after %v",
		0, h.Seq, h.Disk, h.Generation, "", int64(h.DiskSize), h.BlockSize, "", h.Parent)
}

// frame is a frameVisitor.
func (p *printer) frame(h block.FrameHeader, pos block.Offset, _ []byte) error {
	j := dumpedFrame{Number: h.Number, At: pos, Kind: h.Kind.String(), Off: h.Range.Off, Len: h.Range.Len, Payload: h.Payload}
	if h.Kind == block.FrameZero {
		p.item("frame", j, "%10d  frame %d: zero %v", pos, h.Number, h.Range)
		return p.err
	}
	j.Coding, j.Sum = h.Coding.String(), fmt.Sprintf("%016x", h.Sum)
	p.item("frame", j, "%10d  frame %d: data %v, %v, %d bytes, sum %016x", pos, h.Number, h.Range, h.Coding, h.Payload, h.Sum)
	return p.err
}

func (p *printer) seal(d *delta) {
	s := d.seal
	j := dumpedSeal{d.foot.sealAt, s.Class, s.Proven(), s.Time, s.Frames, s.Payload, s.Covered, s.Labels, s.Digest}
	var labels strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		fmt.Fprintf(&labels, ", %s=%q", k, s.Labels[k])
	}
	proven := "proven"
	if !s.Proven() {
		proven = "unproven"
	}
	p.item("seal", j, "%10d  seal: class %v, %s, %s%s\n%10s  %d frames, %d bytes for %d of the disk\n%10s  digest %v",
		d.foot.sealAt, s.Class, proven, s.Time.Format(time.RFC3339Nano), labels.String(),
		"", s.Frames, int64(s.Payload), int64(s.Covered), "", s.Digest)
}

func (p *printer) merge(d *delta) {
	at, c := d.foot.mergeAt, d.held
	p.item("merge", dumpedMerge{at, d.span.first, d.span.last, c.frames, c.payload, c.covered, d.digest},
		"%10d  merge: of %v, in all %d frames, %d bytes for %d of the disk\n%10s  digest %v",
		at, d.span, c.frames, int64(c.payload), int64(c.covered), "", d.digest)
}
