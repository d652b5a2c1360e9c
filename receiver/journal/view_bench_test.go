package journal_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/receiver/journal/journaltest"
)

// BenchmarkViewRead reads 4 KiB at random places of a view over 1,000 deltas, most of which come from them.
func BenchmarkViewRead(b *testing.B) {
	dir, j, _, c, id := newReal(b)
	const size = 128 * block.MiB
	rng, enc := rand.New(rand.NewPCG(1, 2)), must(codec.NewEncoder(codec.LevelNone))
	data := make([]byte, 4096)
	for seq := block.Seq(1); seq <= 1000; seq++ {
		d := &journaltest.Delta{
			Header: block.DeltaHeader{Disk: id, Seq: seq, BlockSize: 4096, DiskSize: size, Parent: j.Tip().Digest},
			Seal:   block.Seal{Class: block.ClassCrash, Time: time.Unix(int64(seq), 0)},
		}
		for range 64 {
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			f := enc.Data(block.Offset(rng.IntN(int(size)/4096))*4096, data)
			d.Frames = append(d.Frames, journaltest.Frame{Header: f.Header, Payload: bytes.Clone(f.Payload)})
		}
		d.Finish(c)
		if err := d.Write(j); err != nil {
			b.Fatal(err)
		}
	}
	raw := must(os.OpenFile(filepath.Join(dir, "raw"), os.O_RDWR|os.O_CREATE, 0o600))
	defer raw.Close()
	for off := int64(0); off < int64(size); off += 1 << 20 {
		must(raw.WriteAt(bytes.Repeat(data, 256), off))
	}
	v := must(j.View(1000))
	defer v.Close()
	for name, read := range map[string]func([]byte, int64) (int, error){"raw": raw.ReadAt, "view": v.ReadAt} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := read(data, int64(rng.IntN(int(size)/4096))*4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}
