// Package agent is the source role: it keeps a copy of live disks up to date at a target.
//
// # Flow
//
//	tracker ▸ dirty set ▸ pass (read.go) ▸ delta (delta.go) ▸ link ═▶ target
//	                         ▲                                          │
//	                         └────────────── ack: bits go ◀─────────────┘
//
// A disk that has much to send (a first sync, the backlog of an outage) sends it in parts: deltas of class none, each
// durable when acknowledged, so that a break costs one part and no more (upload.go). A disk that has little to send joins
// the group, and the group takes recovery points together (checkpoint.go): passes while the disks are in use, then a freeze
// of all file systems, the last swap and read, a thaw, and the seals.
//
// # What makes a point crash-consistent
//
// Between the last swap of the first disk and the last read of the last disk no write completed on any of them. That is not
// assumed from the freeze but counted: a second swap after the last read must find no mark (checkpoint.go). Then the copy
// holds every write that completed before that instant and parts, at most, of those that had not: what a crash at that
// instant would have left. A freeze is what makes this come true on a busy disk; an idle disk needs none.
//
// # What survives
//
// The bits and the note that says what they are relative to live in the kernel with the tracker. A killed agent finds both.
// After a reboot neither is there, and the disk is compared with the target chunk by chunk (scan.go) while points go on
// (resync.go). What must outlive a reboot, the disk's generation (fence.go) and the place of the rolling verification
// (rolling.go), is in a state file (state.go).
package agent
