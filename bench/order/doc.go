// Command order proves the order of writes in recovery points: it writes sectors that tell their place, their turn and what
// was durable before them, takes points meanwhile, restores each, and decides whether a crash at one instant could have left
// it. Then it does the same with points that are read while writes go on, where it must find that none could.
//
// # What is written
//
// A lane is one writer with a place of its own: slots on a raw device or in a file, of 512 or 4096 bytes, written in place
// round and round, or a log of files that is appended to. It works in epochs: it writes some slots, then a barrier (fsync, or
// fdatasync after direct writes). When the barrier returns, the epoch is acknowledged: epoch, monotonic and wall clock go
// into the ledger, which lives outside of the disk, and only then the next epoch begins. Each sector of 512 bytes holds a
// stamp: lane, sequence, its place, the moment before its write was begun, and a checksum.
//
// Some lanes stand in a relay: each begins an epoch when it is handed the token by the lane before it, whose barrier has just
// returned, and its stamps name that lane and epoch.
//
// # What a crash at one instant may leave
//
// A write that was begun after the instant can't be there. A write whose barrier returned before it must be. Of the others,
// those under way, any part may be there, sector by sector. So a copy is such a state if and only if there is an instant t
// with: every sector there was begun before t, and every epoch of which a sector lacks was acknowledged after t, or never.
// Such a t exists if and only if the latest begin of all that is there comes before the earliest acknowledgement of all that
// lacks: that is what judge decides, by one clock for all lanes on all disks. It finds:
//
//	torn       a sector is no whole stamp, or not of this place, or of an epoch that nobody began
//	barrier    within a lane: something of an epoch is there, and something of an earlier one lacks
//	token      a sector says "after epoch n of lane a", and something of that epoch lacks
//	instant    a sector was begun after the acknowledgement of an epoch of which something lacks, in whatever lanes
//	promise    something lacks that was acknowledged before the point's time
//
// barrier and token follow from the copy alone; instant contains both, and needs the ledger. A slot lacks an epoch when it
// holds an earlier turn than the epoch's: a later one overwrites it and proves it.
package main
