// Package ebpf tracks any live disk that serves requests, from outside: programs at the kernel's block tracepoints set bits
// in a map that is pinned, so that tracking goes on when the agent does not.
//
//	write ──▶ block_bio_queue ──▶ driver ──▶ data lands ──▶ block_rq_complete ──▶ the writer is told
//	              │ (option)                                     │ 3 copies
//	              └──────────────▶ marks ◀───────────────────────┘
//	                                 │ Take
//	                                 ▼
//	                              pending bits
//
// # Why no write is lost
//
// A block is read after its mark was taken. If the write that made the mark has landed by then, the read has it. Marked at
// completion, it always has: block_rq_complete fires after the data landed and before the writer is told. A take that comes
// before the mark finds it the next time; one that comes after it is followed by a read of the new data. A mark set only when
// the write is queued can be taken, and the old data read, while the write is still on its way; so that mark is an addition,
// for kernels that withhold completion events, and never the only one.
//
// The kernel does not run a tracing program inside itself: a completion interrupt that lands in one is lost to that program.
// Three copies are attached. The code of task, softirq and hardirq can interrupt one another only in that order, so at any
// instant at most two copies are taken, and the third marks. This needs tracepoints whose programs can't be preempted by
// another task, which is why kernels with real-time preemption are refused.
//
// Marks are bits in memory that kernel and agent share, set and cleared by atomic operations: nothing queues, so nothing
// overflows. A word is handed over before its bits are cleared, and what receives it is pinned as well, so a kill at any
// instant leaves each bit in at least one of the two places. A large request sets whole words by one bit of a coarse level.
//
// # How a miss would be noticed
//
// Each copy counts the sectors of what it saw; the kernel counts them too, for /sys/block/X/stat. Audit compares the two (see
// audit.go). It also fails when a pass-through request went by, whose effect nobody can see, when a request was too large to
// mark, and when the device is not the one it was. What failed is compared with the target while its protection goes on.
//
// That is no theory. On a Linux 6.18 (loop disk, ext4, fio with an fsync after every fourth write) 64 of 574,176 sectors written
// were in no completion event: all copies, and a program without any filter on the operation, lacked the same, the kernel
// counted no recursion miss, and the sectors read agreed. Without fsyncs none lacked. Debian's 6.1 and 6.12 have not shown it.
//
// # What is not tracked
//
// Disks that pass requests on rather than completing them (device mapper, md, zram): what they stand on is. Writes that do
// not come through this kernel: a disk shared with another host, a hypervisor that rolls one back, mappings of persistent
// memory. A full verification finds those.
package ebpf
