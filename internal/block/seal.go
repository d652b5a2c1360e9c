package block

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"
)

// A seal ends a delta. Until it is durable at the target the delta does not exist.
//
//	kind u8 = 0x53 'S' | class u8 | flags u16 | body length u32 | seq u64 | time i64 (ns since 1970, UTC) | frames u64 |
//	payload bytes u64 | disk bytes u64 | label count u16 | labels: (key length u8, key, value length u16, value)… |
//	digest 32 | crc u32
//
// body length counts from seq to the end of the labels. The labels stand in the order of their keys. The crc covers
// everything before it. The first byte tells a seal from a frame, whose kinds are small numbers.

// SealKind is a seal's first byte.
const SealKind = 0x53

// Limits of a seal.
const (
	MaxLabels     = 32
	MaxLabelKey   = 63
	MaxLabelValue = 1023
	// sealHead is kind to body length; sealFixed the body without labels; sealTail digest and crc.
	sealHead, sealFixed, sealTail = 8, 8 + 8 + 8 + 8 + 8 + 2, 32 + 4
	// MaxSealSize bounds an encoded seal.
	MaxSealSize = sealHead + sealFixed + MaxLabels*(1+MaxLabelKey+2+MaxLabelValue) + sealTail
	// SealHeadSize is how much of a seal tells its whole size: see SealSize.
	SealHeadSize = sealHead
)

// Class is what a sealed delta promises about the disk at that instant.
type Class uint8

// The classes.
const (
	ClassNone        Class = 0 // durable progress, not a recovery point: a part of the first sync, say
	ClassCrash       Class = 1 // all disks of the group at one instant
	ClassApplication Class = 2 // crash, and the applications' hooks ran
	ClassFuzzy       Class = 3 // read while writes went on: no instant, but a copy to fall back on where nothing better can be had
)

func (c Class) String() string {
	switch c {
	case ClassNone:
		return "none"
	case ClassCrash:
		return "crash"
	case ClassApplication:
		return "application"
	case ClassFuzzy:
		return "fuzzy"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// MarshalText makes the class a word in JSON.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (c *Class) UnmarshalText(text []byte) error {
	for _, k := range []Class{ClassNone, ClassCrash, ClassApplication, ClassFuzzy} {
		if k.String() == string(text) {
			*c = k
			return nil
		}
	}
	return fmt.Errorf("%q is not a class: none, crash, application or fuzzy", text)
}

// Point tells whether a delta of this class ends in a recovery point: something an operator can ask for by number or time.
func (c Class) Point() bool { return c != ClassNone }

// Consistent tells whether the point is one instant of the disk. One that is not is never what "latest" means.
func (c Class) Consistent() bool { return c == ClassCrash || c == ClassApplication }

// SealFlags are facts about a sealed delta that its class does not say.
type SealFlags uint16

// The flags.
const (
	// FlagUnproven: the tracker may have missed a write before this point; the disk is being scanned.
	FlagUnproven SealFlags = 1 << 0

	knownSealFlags = FlagUnproven
)

// Seal ends a delta: what it is, and how much it held.
type Seal struct {
	Class   Class
	Flags   SealFlags
	Seq     Seq
	Time    time.Time // the instant of the point by the source's clock, UTC: just before the freeze
	Frames  uint64    // in the delta
	Payload Size      // bytes of payload in the delta, as sent
	Covered Size      // bytes of disk that the frames cover, overlaps counted again
	Labels  map[string]string
	Digest  Digest // of the delta, chained to its parent: see Chain
}

// Proven tells whether the tracker's audit stood behind this delta.
func (s Seal) Proven() bool { return s.Flags&FlagUnproven == 0 }

// appendBody adds everything before the digest.
func (s Seal) appendBody(b []byte) []byte {
	b = append(b, SealKind, byte(s.Class))
	b = binary.LittleEndian.AppendUint16(b, uint16(s.Flags))
	lengthAt := len(b)
	b = binary.LittleEndian.AppendUint32(b, 0)
	body := len(b)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Seq))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Time.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, s.Frames)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Payload))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Covered))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s.Labels)))
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		b = append(append(b, byte(len(k))), k...)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s.Labels[k])))
		b = append(b, s.Labels[k]...)
	}
	binary.LittleEndian.PutUint32(b[lengthAt:], uint32(len(b)-body))
	return b
}

// Check says which limit of the format the seal breaks.
func (s Seal) Check() error {
	if s.Class > ClassFuzzy || s.Flags&^knownSealFlags != 0 || s.Seq == 0 || s.Payload < 0 || s.Covered < 0 {
		return fmt.Errorf("seal of class %d, flags %#x, seq %d: %w", s.Class, s.Flags, s.Seq, ErrMalformed)
	}
	if len(s.Labels) > MaxLabels {
		return fmt.Errorf("seal with %d labels, at most %d fit: %w", len(s.Labels), MaxLabels, ErrMalformed)
	}
	for k, v := range s.Labels {
		if k == "" || len(k) > MaxLabelKey || len(v) > MaxLabelValue {
			return fmt.Errorf("label %.70q: a key has 1 to %d bytes, a value up to %d: %w", k, MaxLabelKey, MaxLabelValue, ErrMalformed)
		}
	}
	return nil
}

// Append adds the encoded seal to b. The seal must pass Check.
func (s Seal) Append(b []byte) []byte {
	start := len(b)
	b = s.appendBody(b)
	b = append(b, s.Digest[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], Castagnoli))
}

// SealSize tells, from the first SealHeadSize bytes of a seal, how many bytes it has in all.
func SealSize(head []byte) (int, error) {
	if len(head) < sealHead || head[0] != SealKind {
		return 0, fmt.Errorf("parse seal: no seal begins here: %w", ErrMalformed)
	}
	body := binary.LittleEndian.Uint32(head[4:])
	if body < sealFixed || body > MaxSealSize-sealHead-sealTail {
		return 0, fmt.Errorf("parse seal: body of %d bytes: %w", body, ErrMalformed)
	}
	return sealHead + int(body) + sealTail, nil
}

// ParseSeal reads a seal from the start of b and tells how many bytes it took.
func ParseSeal(b []byte) (Seal, int, error) {
	n, err := SealSize(b)
	if err != nil {
		return Seal{}, 0, err
	}
	if len(b) < n {
		return Seal{}, 0, fmt.Errorf("parse seal: %d of %d bytes: %w", len(b), n, ErrMalformed)
	}
	b = b[:n]
	if crc32.Checksum(b[:n-4], Castagnoli) != binary.LittleEndian.Uint32(b[n-4:]) {
		return Seal{}, 0, fmt.Errorf("parse seal: %w", ErrChecksum)
	}
	s := Seal{
		Class:   Class(b[1]),
		Flags:   SealFlags(binary.LittleEndian.Uint16(b[2:])),
		Seq:     Seq(binary.LittleEndian.Uint64(b[8:])),
		Time:    time.Unix(0, int64(binary.LittleEndian.Uint64(b[16:]))).UTC(),
		Frames:  binary.LittleEndian.Uint64(b[24:]),
		Payload: Size(binary.LittleEndian.Uint64(b[32:])),
		Covered: Size(binary.LittleEndian.Uint64(b[40:])),
	}
	copy(s.Digest[:], b[n-sealTail:])
	if s.Labels, err = parseLabels(b[sealHead+sealFixed-2 : n-sealTail]); err != nil {
		return Seal{}, 0, err
	}
	return s, n, s.Check()
}

// parseLabels reads the label count and the labels; b must hold them and nothing else.
func parseLabels(b []byte) (map[string]string, error) {
	count := binary.LittleEndian.Uint16(b)
	b = b[2:]
	if count > MaxLabels {
		return nil, fmt.Errorf("parse seal: %d labels: %w", count, ErrMalformed)
	}
	cut := func(width int) (string, bool) {
		if len(b) < width {
			return "", false
		}
		n := int(b[0])
		if width == 2 {
			n = int(binary.LittleEndian.Uint16(b))
		}
		if len(b) < width+n {
			return "", false
		}
		s := string(b[width : width+n])
		b = b[width+n:]
		return s, true
	}
	var labels map[string]string
	for range count {
		key, ok := cut(1)
		value, ok2 := cut(2)
		if !ok || !ok2 {
			return nil, fmt.Errorf("parse seal: a label is cut short: %w", ErrMalformed)
		}
		if labels == nil {
			labels = make(map[string]string, count)
		}
		labels[key] = value
	}
	if len(b) != 0 || len(labels) != int(count) {
		return nil, fmt.Errorf("parse seal: labels do not fill their place: %w", ErrMalformed)
	}
	return labels, nil
}
