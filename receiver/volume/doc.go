// Package volume is where a disk's blocks live at the target: a sparse file, or a block device. Both are a File, which is a
// block.Device that can zero a range for less than writing it, tell its holes, and, as a regular file, grow.
//
// volumetest holds the conformance suite for any Device, and Devices that forget and that fail.
package volume
