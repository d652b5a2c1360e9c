package workload

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
)

// headerSize is the length of the text that every file begins with: its number and its length.
const headerSize = 48

// Content is what the file with that number holds: a header, then bytes of which half can be compressed. The whole of it
// follows from seq and size, so no checksum is stored: the check is byte by byte.
func Content(seq uint64, size int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], seq)
	random := rand.NewChaCha8(seed)
	b := make([]byte, size)
	for off := 0; off < size; off += 8192 {
		part := b[off:min(off+8192, size)]
		half := min(4096, len(part))
		random.Read(part[:half])
		line := fmt.Sprintf("file %d offset %d; ", seq, off)
		for rest := part[half:]; len(rest) > 0; {
			rest = rest[copy(rest, line):]
		}
	}
	copy(b, header(seq, size))
	return b
}

func header(seq uint64, size int) string { return fmt.Sprintf("understudy %020d %015d\n", seq, size) }

// readHeader is the number and the length that a file says it has.
func readHeader(b []byte) (seq uint64, size int, err error) {
	if len(b) < headerSize {
		return 0, 0, fmt.Errorf("%d bytes: shorter than a header", len(b))
	}
	if _, err := fmt.Sscanf(string(b[:headerSize]), "understudy %d %d\n", &seq, &size); err != nil {
		return 0, 0, fmt.Errorf("header is damaged: %q", b[:headerSize])
	}
	if header(seq, size) != string(b[:headerSize]) {
		return 0, 0, fmt.Errorf("header is damaged: %q", b[:headerSize])
	}
	return seq, size, nil
}

// check holds that b is a whole content, and tells which.
func check(b []byte) (seq uint64, err error) {
	seq, size, err := readHeader(b)
	if err != nil {
		return 0, err
	}
	if size != len(b) {
		return seq, fmt.Errorf("number %d has %d bytes, not %d", seq, len(b), size)
	}
	if want := Content(seq, size); !bytes.Equal(b, want) {
		at := 0
		for b[at] == want[at] {
			at++
		}
		return seq, fmt.Errorf("number %d differs from byte %d on", seq, at)
	}
	return seq, nil
}

// rowPayload is the text in row n of the database.
func rowPayload(n uint64) string {
	size := headerSize + int(n*2654435761%1900)
	return hex.EncodeToString(Content(n, size)[headerSize:])
}
