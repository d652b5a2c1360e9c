package journal_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/receiver/journal"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
)

// TestForgery changes a delta and makes the checksums of the changed part right again: what is left is what the parts say of
// each other, and the digest.
func TestForgery(t *testing.T) {
	for name, c := range map[string]struct {
		forge  func(raw []byte, frames []journaltest.Frame)
		unread bool // a view meets it too
	}{
		"payload and its sum": {forge: func(raw []byte, frames []journaltest.Frame) {
			h := frames[0].Header
			payload := raw[block.DeltaHeaderSize+block.FrameHeaderSize:][:h.Payload]
			payload[3] ^= 1
			h.Sum = xxhash.Sum64(payload)
			h.Append(raw[block.DeltaHeaderSize:][:0])
		}},
		"frame's place": {unread: true, forge: func(raw []byte, frames []journaltest.Frame) {
			h := frames[0].Header
			h.Range.Off ^= 512
			h.Append(raw[block.DeltaHeaderSize:][:0])
		}},
		"frame's number": {unread: true, forge: func(raw []byte, frames []journaltest.Frame) {
			h := frames[0].Header
			h.Number = 7
			h.Append(raw[block.DeltaHeaderSize:][:0])
		}},
		"index": {unread: true, forge: func(raw []byte, _ []journaltest.Frame) {
			at := binary.LittleEndian.Uint64(raw[len(raw)-36:])
			end := binary.LittleEndian.Uint64(raw[len(raw)-28:])
			raw[at+4+1] ^= 2 // the first entry's offset
			binary.LittleEndian.PutUint32(raw[end-4:], crc32.Checksum(raw[at:end-4], block.Castagnoli))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 30)
			d, state := w.next(block.ClassCrash)
			for len(d.Frames) < 1 || d.Frames[0].Header.Coding != block.CodingNone || d.Frames[0].Header.Kind != block.FrameData {
				d, state = w.next(block.ClassCrash)
			}
			d.Frames = d.Frames[:1] // nothing lies over it
			d.Finish(w.codec)
			if err := d.Write(w.j); err != nil {
				t.Fatal(err)
			}
			w.states[1] = state
			raw, err := readFile(w.fs, w.file(1))
			if err != nil {
				t.Fatal(err)
			}
			c.forge(raw, d.Frames)
			f, err := w.fs.OpenFile(w.file(1), 2)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(raw, 0); err != nil {
				t.Fatal(err)
			}
			w.expectForged(c.unread)
		})
	}
}

// expectForged holds that the forgery in delta 1 is seen by Check and Fold, and by a view that reads it.
func (w *world) expectForged(unread bool) {
	w.t.Helper()
	j, err := journal.Open(testDir, w.options())
	if err != nil || j.Damage() != nil {
		w.t.Fatal("the forgery is not one: the ends tell", err, j.Damage())
	}
	var c *block.CorruptionError
	if err := j.Check(context.Background(), nil); !errors.As(err, &c) || c.File != w.file(1) {
		w.t.Errorf("check: %v", err)
	}
	if unread {
		v, err := j.View(1)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := v.ReadAt(make([]byte, v.Geometry().Size), 0); !errors.As(err, &c) {
			w.t.Errorf("view: %v", err)
		}
		v.Close()
		return
	}
	if err := j.Fold(context.Background(), 1); !errors.As(err, &c) || j.Usage().Folded != 0 {
		w.t.Errorf("fold: %v", err)
	}
}

// TestForgedMerge changes a payload of a merged delta and makes its sum right again: the digest of the merge tells.
func TestForgedMerge(t *testing.T) {
	for seed := uint64(31); ; seed++ {
		w := newWorld(t, seed)
		for range 3 {
			w.add(block.ClassCrash)
		}
		w.merge(0, 3)
		name := "00000000000000000001-00000000000000000003.delta"
		raw, err := readFile(w.fs, testDir+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		h, err := block.ParseFrameHeader(raw[block.DeltaHeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		if h.Kind != block.FrameData || h.Coding != block.CodingNone {
			continue // the next seed may have a first frame that can be changed
		}
		payload := raw[block.DeltaHeaderSize+block.FrameHeaderSize:][:h.Payload]
		payload[3] ^= 1
		h.Sum = xxhash.Sum64(payload)
		h.Append(raw[block.DeltaHeaderSize:][:0])
		w.put(name, raw)
		w.reopen()
		var c *block.CorruptionError
		if err := w.j.Check(context.Background(), nil); !errors.As(err, &c) || c.File != testDir+"/"+name {
			t.Errorf("check: %v", err)
		}
		if err := w.j.Fold(context.Background(), 3); !errors.As(err, &c) || w.j.Usage().Folded != 0 {
			t.Errorf("fold: %v", err)
		}
		return
	}
}
