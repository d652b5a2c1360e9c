// Package wire is what the two ends of a link say to each other, as bytes: no I/O, no state. Messages are appended to a
// slice and parsed from a slice; internal/link moves them.
//
// # Units
//
// A stream carries units one after the other. The first byte tells which kind one is (UnitOf):
//
//	0x01, 0x02  a frame of a delta: block.FrameHeader and its payload
//	0x53 'S'    a seal: block.Seal
//	0x55 'U'    a delta's header: block.DeltaHeader
//	0x80…       a message of this package
//
// The parts of a delta have no envelope: the bytes on the wire are the bytes in the journal. Each of them tells its own
// length in its first bytes. A message has a head:
//
//	 0      1       2        4             8
//	+------+-------+--------+-------------+--------
//	| type | flags | zero   | body length | body …
//	| u8   | u8    | u16    | u32         |
//	+------+-------+--------+-------------+--------
//
// All integers are little-endian. No flag is defined yet: all must be 0. A string is its length in bytes (u16) and its
// bytes. A message has no checksum: TLS guards it. What lies on a disk later has its own.
//
// # Versions
//
//	1: the first
//
// The version is agreed on in Hello and Welcome. The bodies of Hello, Welcome and Error may grow at their end in later
// versions, and what follows the known part is ignored, so that any two ends can greet each other and say no. Every other
// body must be exactly what the agreed version says.
package wire

// Versions of the protocol that this code speaks; see the list above.
const (
	MinVersion = 1
	MaxVersion = 1
)
