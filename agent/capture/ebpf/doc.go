// Package ebpf tracks any live disk that serves requests, from outside: programs at the kernel's block tracepoints set bits
// in a map that is pinned, so that tracking goes on when the agent does not.
//
//	write ──▶ block_rq_issue ──▶ driver ──▶ data lands ──▶ block_rq_complete ──▶ the writer is told
//	              │ (option)                                    │ 3 copies
//	              ▼                                             ▼
//	      table of writes in flight                           marks
//	              │                                             │
//	              └────────────▶ Take ◀─────────────────────────┘
//	                              │
//	                              ▼
//	                         pending bits
//
// # Why no write is lost
//
// A block is read after its mark was taken. If the write that made the mark has landed by then, the read has it. Marked at
// completion, it always has: block_rq_complete fires after the data landed and before the writer is told. A take that comes
// before the mark finds it the next time; one that comes after it is followed by a read of the new data. A mark set only when
// the write is queued can be taken, and the old data read, while the write is still on its way.
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
// # Where completions are not told
//
// That is no theory. On one Linux 6.18 no tracing program runs while a certain process is on the CPU, at no tracepoint, and no
// recursion miss is counted: neither for the process nor for the interrupts that come meanwhile. When those complete writes of
// the disk, all copies lack the same. With fio (4 KiB random writes, an fsync after every fourth) on ext4 on a loop device it was
// 32 of 1,607,176 sectors, 88 of 3,202,928 and 32 of 1,578,232, all of them issued when some CPU had just switched to that process
// and told of nothing for milliseconds. block_rq_issue, which fires where the writer or its worker runs, had the statistics' sum
// to the sector each time. Debian's 6.1 and 6.12 have not shown it.
//
// So once an audit has fallen short, or when told to, a program at block_rq_issue enters each write into a table before the
// driver gets it (flight.go). The entry is the request's own: no two requests that are in use have the same, and the time when
// a request was made tells one use of it from the next. It goes when
//
//   - a copy sees the request complete. Then the mark is there, as above;
//   - the driver gives the request back (block_rq_requeue). It has not been written, and is entered again when it is issued again;
//   - the request is issued in another use. Then the first use is over, and was not seen: its blocks are marked, its sectors
//     counted as found, and only then does the entry change hands;
//   - Take or Audit finds that all of the table has landed (settle): the statistics have exactly as many sectors more than were
//     seen and found as the table holds, the driver has no write to do, and the table is the same after both were read. Its blocks
//     are marked, its sectors counted as found, and the entries cleared, in that order.
//
// As long as an entry is there, every Take hands over its blocks. Take an unseen write that has landed. The next Take either finds
// the entry, or the marks that were set before it went. So the block is handed over after its data landed, and read: a write
// needs to be seen at one of its ends, not at both.
//
// The audit stays exact. A sector is counted by a copy or as found, never both: an entry is found only while no copy has taken it
// out. So seen plus found is what the statistics say, less what was seen at neither end, which is a miss as before, and less what
// is unseen and still in the table. For that an audit waits a second: on a busy disk requests are soon used again, and another
// one is soon idle. If it waits in vain, it takes that for a miss.
//
// Two things are not entries of the statistics, and are taken out uncounted: a request whose bios were taken away (multipath,
// when a path fails), and one that is given back and merged into another. To count one of them as found, its completion or return
// would have to be among those that are not told; to do harm, a write would have to be missed at both its ends besides, in the
// same interval. Settle has a similar bound: a write counts as in flight to the driver only a moment after its issue event. To
// be taken for landed in that moment, it must have the size of another write that was missed at both ends. To be lost, its own
// completion must be missed too.
//
// A write with a flush completes twice, the second time with no sectors and after a flush of the disk: an entry that is still there
// then stays, as one whose first completion was not seen. Of a request that completes in pieces, the first that is seen takes
// the entry out, and the rest depends on being seen: what is not fails the audit. So does a write for which the table has
// no entry.
//
// # What is not tracked
//
// Disks that pass requests on rather than completing them (device mapper, md, zram): what they stand on is. Writes that do
// not come through this kernel: a disk shared with another host, a hypervisor that rolls one back, mappings of persistent
// memory. A full verification finds those.
package ebpf
