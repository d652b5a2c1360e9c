// Package block holds the nouns every other package speaks: units, ranges, bitmaps, devices, and the delta, which is the
// one thing that travels. It is the ground floor: the standard library only, no goroutines, no logging.
//
// # Units
//
// Byte offsets and byte counts are Offset and Size; positions in a bitmap are Index and Count, whose unit is a BlockSize.
// They never share an int, so a block number cannot be used as a byte offset by mistake.
//
// # The delta
//
// A delta is the changes of one disk between two recovery points: a header, frames, a seal. What the wire carries is what
// the journal stores, byte for byte; delta.go, frame.go and seal.go draw it. The checksums and the compression of payloads
// need code from outside the standard library; they come in through the Codec interface.
package block
