package block_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
)

// batchFile is a file with random content.
func batchFile(t *testing.T, size int) (path string, content []byte) {
	t.Helper()
	path, content = filepath.Join(t.TempDir(), "file"), make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func openBatchFile(t *testing.T, path string, direct bool) *block.File {
	t.Helper()
	f, err := block.OpenFile(path, block.Mode{Direct: direct})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestBatchReads reads random pieces, in batches smaller and larger than what may be under way, with a queue and without one.
func TestBatchReads(t *testing.T) {
	const size = 8 << 20
	path, content := batchFile(t, size)
	for name, direct := range map[string]bool{"queued": true, "one after another": false} {
		t.Run(name, func(t *testing.T) {
			f := openBatchFile(t, path, direct)
			b := block.NewBatch(7)
			defer b.Close()
			if direct && !b.Queued() {
				t.Fatal("this kernel gives no queue: the test proves nothing")
			}
			random := rand.New(rand.NewPCG(2, 3))
			for n := range 40 {
				var reads []block.Read
				for range n {
					length := block.Size(4096 * (1 + random.IntN(16)))
					reads = append(reads, block.Read{Off: block.Offset(4096 * random.IntN(size/4096-16)), Buf: block.AlignedBuffer(length)})
				}
				if err := b.Read(f, reads); err != nil {
					t.Fatal(err)
				}
				for _, r := range reads {
					if !bytes.Equal(r.Buf, content[r.Off:int(r.Off)+len(r.Buf)]) {
						t.Fatalf("%d reads: wrong bytes at %d", n, r.Off)
					}
				}
			}
		})
	}
}

// TestBatchFails: one read of many that fails or comes short fails the batch, which can be used again.
func TestBatchFails(t *testing.T) {
	path, content := batchFile(t, 1<<20)
	f, closed := openBatchFile(t, path, true), openBatchFile(t, path, true)
	closed.Close()
	b := block.NewBatch(4)
	defer b.Close()
	reads := make([]block.Read, 10)
	for i := range reads {
		reads[i] = block.Read{Off: block.Offset(i * 4096), Buf: block.AlignedBuffer(4096)}
	}
	for what, c := range map[string]struct {
		dev    *block.File
		spoil  func(r *block.Read)
		expect error
	}{
		"past the end": {f, func(r *block.Read) { r.Off = 1 << 20 }, io.ErrUnexpectedEOF},
		"not aligned":  {f, func(r *block.Read) { r.Off = 77 }, syscall.EINVAL},
		"closed":       {closed, func(*block.Read) {}, syscall.EBADF},
	} {
		for i := range reads {
			good := reads[i]
			c.spoil(&reads[i])
			if err := b.Read(c.dev, reads); !errors.Is(err, c.expect) {
				t.Errorf("%s, the %dth of %d: %v", what, i, len(reads), err)
			}
			reads[i] = good
			if err := b.Read(f, reads); err != nil {
				t.Fatalf("after %s: %v", what, err)
			}
		}
	}
	if !bytes.Equal(reads[9].Buf, content[9*4096:10*4096]) {
		t.Error("wrong bytes")
	}
}

func TestBatchAllocatesNothing(t *testing.T) {
	path, _ := batchFile(t, 1<<20)
	f := openBatchFile(t, path, true)
	b := block.NewBatch(4)
	defer b.Close()
	reads := make([]block.Read, 10)
	for i := range reads {
		reads[i] = block.Read{Off: block.Offset(i * 4096), Buf: block.AlignedBuffer(4096)}
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := b.Read(f, reads); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
