package codec_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

func newCodec(t testing.TB) *codec.Codec {
	t.Helper()
	c, err := codec.New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mixed is n bytes of which the first part is random and the rest repeats, so that every ratio occurs.
func mixed(seed uint64, n, random int) []byte {
	b, r := make([]byte, n), rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b[:min(random, n)])
	for i := random; i < n; i++ {
		b[i] = byte(i / 97)
	}
	return b
}

func TestFramesSurviveTheRoundTrip(t *testing.T) {
	c := newCodec(t)
	rapid.Check(t, func(t *rapid.T) {
		level := rapid.SampledFrom([]codec.Level{codec.LevelNone, codec.LevelS2, codec.LevelZstd}).Draw(t, "level")
		n := rapid.IntRange(1, int(block.MaxFrameData)).Draw(t, "n")
		data := mixed(rapid.Uint64().Draw(t, "seed"), n, rapid.IntRange(0, n).Draw(t, "random"))
		e, err := codec.NewEncoder(level)
		if err != nil {
			t.Fatal(err)
		}
		f := e.Data(4096, data)
		h, err := block.ParseFrameHeader(f.Header.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Open(nil, h, f.Payload)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%v frame of %d bytes did not come back: %v", h.Coding, n, err)
		}
	})
}

func TestADamagedPayloadIsSeen(t *testing.T) {
	c := newCodec(t)
	for _, level := range []codec.Level{codec.LevelNone, codec.LevelS2, codec.LevelZstd} {
		e, err := codec.NewEncoder(level)
		if err != nil {
			t.Fatal(err)
		}
		f := e.Data(0, mixed(1, 4096, 100))
		payload := bytes.Clone(f.Payload)
		for bit := range len(payload) * 8 {
			payload[bit/8] ^= 1 << (bit % 8)
			if _, err := c.Open(nil, f.Header, payload); !errors.Is(err, block.ErrChecksum) {
				t.Fatalf("%s: bit %d flipped: %v", level, bit, err)
			}
			payload[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// TestAPayloadThatLiesAboutItsSize has a right checksum over a payload that decodes to another length.
func TestAPayloadThatLiesAboutItsSize(t *testing.T) {
	c := newCodec(t)
	for _, level := range []codec.Level{codec.LevelS2, codec.LevelZstd} {
		e, err := codec.NewEncoder(level)
		if err != nil {
			t.Fatal(err)
		}
		f := e.Data(0, mixed(1, 8192, 100))
		f.Header.Range.Len = 4096
		if _, err := c.Open(nil, f.Header, f.Payload); !errors.Is(err, block.ErrMalformed) {
			t.Errorf("%s: 8192 bytes passed for 4096: %v", level, err)
		}
	}
}

func TestIsZero(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := make([]byte, rapid.IntRange(0, 20000).Draw(t, "n"))
		if !codec.IsZero(b) {
			t.Fatal("zeroes are not zero")
		}
		if len(b) > 0 {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = 1
			if codec.IsZero(b) {
				t.Fatal("a byte that is set is zero")
			}
		}
	})
}

// TestEncodingAllocatesNothing: a frame costs no memory once the encoder is warm.
func TestEncodingAllocatesNothing(t *testing.T) {
	data := mixed(1, int(block.MaxFrameData), 1000)
	for _, level := range []codec.Level{codec.LevelNone, codec.LevelS2, codec.LevelZstd} {
		e, err := codec.NewEncoder(level)
		if err != nil {
			t.Fatal(err)
		}
		e.Data(0, data)
		if n := testing.AllocsPerRun(20, func() { e.Data(0, data) }); n > 0 {
			t.Errorf("%s: %v allocations a frame", level, n)
		}
	}
}
