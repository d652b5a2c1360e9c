package block

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Offset is a position on a device in bytes, 0 at its start.
type Offset int64

// Size is a number of bytes.
type Size int64

// Binary multiples of a byte.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// String prints the size with the largest binary unit that keeps it above 1, and two decimals at most.
func (s Size) String() string {
	units := []struct {
		size Size
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}}
	for _, u := range units {
		if s >= u.size || -s >= u.size {
			text := strconv.FormatFloat(float64(s)/float64(u.size), 'f', 2, 64)
			return strings.TrimSuffix(strings.TrimRight(text, "0"), ".") + " " + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + " B"
}

// Index is the number of a block on a device: the block's offset divided by the BlockSize it is counted in.
type Index int64

// Count is a number of blocks.
type Count int64

// BlockSize is the unit of an Index in bytes: a power of two from 512 bytes to 64 MiB.
type BlockSize uint32

// DefaultBlockSize is the granularity of a dirty set unless the operator asks for another.
const DefaultBlockSize BlockSize = 4096

// Check says why b is no block size.
func (b BlockSize) Check() error {
	if b < 512 || b > 64<<20 || bits.OnesCount32(uint32(b)) != 1 {
		return fmt.Errorf("block size %d is not a power of two between 512 and 64 MiB", uint32(b))
	}
	return nil
}

// shift is log2 of b.
func (b BlockSize) shift() uint { return uint(bits.TrailingZeros32(uint32(b))) }

// Of is the block that holds the byte at off.
func (b BlockSize) Of(off Offset) Index { return Index(off >> b.shift()) }

// At is where block i begins.
func (b BlockSize) At(i Index) Offset { return Offset(i) << b.shift() }

// Count is the number of blocks that hold size bytes, the last of which may be partial.
func (b BlockSize) Count(size Size) Count {
	return Count((int64(size) + int64(b) - 1) >> b.shift())
}

// Bytes is the size of n whole blocks.
func (b BlockSize) Bytes(n Count) Size { return Size(n) << b.shift() }

// Seq numbers the deltas of one disk in the order in which they were sealed. The first is 1; 0 means "none yet".
// A recovery point carries the number of the delta that it seals.
type Seq uint64

func (s Seq) String() string { return "#" + strconv.FormatUint(uint64(s), 10) }

// Generation is the fence of a disk: each promotion of the other side raises it, and an older source is refused.
type Generation uint32

// Digest is a BLAKE3-256 over a delta, chained to the delta before it. The zero Digest stands before the first delta.
type Digest [32]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// DiskID names a disk for ever, whatever its device node is called: a random UUID (RFC 9562, version 4).
type DiskID [16]byte

// NewDiskID makes a random id.
func NewDiskID() DiskID {
	var id DiskID
	rand.Read(id[:]) // never fails: it ends the program rather than return weak numbers
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// String is the form 8-4-4-4-12 in lower case.
func (id DiskID) String() string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseDiskID reads what String prints.
func ParseDiskID(s string) (DiskID, error) {
	var id DiskID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, fmt.Errorf("%q is not a disk id: it should look like 01234567-89ab-4cde-8f01-23456789abcd", s)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("%q is not a disk id: it holds something other than hexadecimal digits", s)
	}
	copy(id[:], raw)
	return id, nil
}

// MarshalText and UnmarshalText make the id a string in JSON and TOML.
func (id DiskID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (id *DiskID) UnmarshalText(text []byte) error {
	parsed, err := ParseDiskID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// MarshalText makes the digest a hexadecimal string in JSON.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(d[:], text); err != nil || n != len(d) {
		return fmt.Errorf("%q is not a digest of 64 hexadecimal digits", text)
	}
	return nil
}
