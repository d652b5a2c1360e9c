// Package journal keeps the recovery points of one disk: a directory of sealed deltas, redo only, and the position up to which
// they have been folded into the disk's volume.
//
//	DIR/journal.json                    whose journal it is (record.go)
//	DIR/folded.json                     how far the volume is (record.go, position)
//	DIR/pins.json                       which points stay whatever the policy says (pins.go)
//	DIR/00000000000000000412.delta      delta #412, sealed and never changed again (format.go)
//	DIR/00000000000000000413.delta.open the delta that is coming in, .spill the part of its index that does not fit into memory
//	DIR/00000000000000000400-00000000000000000409.delta
//	                                    #400 to #409, merged: the newest content of each range, ending in #409's point (merged.go)
//	DIR/*.tmp                           a record that is being replaced
//
// A disk begins with no bytes, and what it grows by is zeroes until a frame says otherwise. A view of delta p is the volume,
// and over it the frames of the deltas from the position up to p, the later over the earlier.
//
// # What is assumed of the disk and the filesystem
//
// Nothing that was written is there after a crash unless a sync that came after it returned nil: any part of it may be,
// down to a sector, in any order. A new name, a rename and a removal are there for sure once the directory was synced, and
// may be before. A rename replaces in one step. What was synced stays, but for bits that flip: those are found by checksum,
// not prevented. A sync that failed is not tried again on the same data, for the kernel may have forgotten it: the file
// is dropped, or all of it is written anew.
//
// # The writes, in order, and what a crash leaves
//
// Create: the directory, folded.json, pins.json, journal.json, the parent directory. journal.json comes last. A crash before its rename
// is durable leaves no journal, and Create may be called again; after, a whole one.
//
// A record (journal.json, folded.json, pins.json): a new file beside it is written and synced, renamed over the old one, the directory
// synced. A crash leaves the old record or the new, each whole; a .tmp file is removed by Open.
//
// A delta:
//
//  1. .open (and .spill) are created and written. A crash leaves any part of them: Open removes them. The source was told
//     nothing, and still has the bits.
//  2. .open is synced with header, frames, index, seal and footer. A crash leaves it whole, under a name that Open removes.
//  3. It is renamed to .delta. A crash leaves either name. Under .delta it is whole, because of 2: the delta exists, though
//     the source does not know. It finds out when it asks for the tip.
//  4. The directory is synced. From here on a crash leaves the delta. Only now Commit returns nil and the ack may go out.
//
// The next delta begins after 4, so the sealed deltas on the disk are always a run without a gap from the position. So no
// crash makes a .delta that is cut short, unsealed or out of the chain: one like that is damage, which Open reports and does
// not repair, for it was acknowledged.
//
// Where 3 or 4 fails without a crash, the name is removed again, so that the delta does not exist, and a next one of the same
// number replaces what a crash may bring back of it. Where that fails too the journal takes nothing more until it is opened.
//
// Folding the deltas Seq+1 to T:
//
//  1. folded.json says Seq, target T. A crash after it leaves the volume anywhere between the two. Points before T, that of
//     the volume included, are not served from then on; points from T on are right in any case, because their views read each
//     range that the fold may have touched from the deltas, not from the volume.
//  2. The volume is grown, zeroed where it grew, and written, delta by delta, in order. A crash leaves any part of it. Open
//     finds target T, and the next Fold applies Seq+1 to T again: all are still there, and writing the same again in the same
//     order ends in the same.
//  3. The volume is synced.
//  4. folded.json says T, target T. A crash before it is durable repeats from 1; after it, the volume has all up to T.
//  5. The files up to T are removed. A crash leaves some of them: Open removes those up to the position.
//
// Should 4 fail, the position in memory stays at Seq, and the next Fold begins with 1 again: it must, for the disk may say T
// already, and folding again takes the volume through older states.
//
// A delta is checked as it is applied: its frames one by one, its digest at the end. Damage stops the fold with the position
// where it was. What was written by then came from frames whose own checksums were right, and only to ranges that the views
// still served don't read from the volume.
//
// Merging deltas A to B, adjacent, all after the position and its target:
//
//  1. A-B.delta.open (and .spill, .sort) is created and written, from deltas that were checked to the last byte, digests
//     included. A crash leaves any part of it: Open removes it. The deltas A to B are as they were.
//  2. It is synced. A crash leaves it whole, under a name that Open removes.
//  3. It is renamed to A-B.delta. A crash leaves either name. Under the new one it is whole, because of 2, and it stands
//     beside A to B, which say the same: Open takes the merged one, since its range holds theirs.
//  4. The directory is synced. From here on a crash leaves A-B.delta.
//  5. The files A to B are removed. A crash leaves any of them, and Open removes those whose range lies within another's.
//
// Open removes nothing that a merged delta stands for before that delta's ends have been read and follow the chain; where
// there is damage it removes none at all. Two deltas whose ranges overlap otherwise, or one that reaches over the position
// or its target, are damage.
//
// Where 3 or 4 fails without a crash, the new name is removed again, and A to B count. A crash may bring the name back, which
// does no harm by itself. But it would reach over what comes next: a position between A and B, or another merge. So the
// directory is synced before the next position or merge gets its name (settle), and if that fails nothing is done.
//
// The points of A to B but B's are gone with 3. The journal says so first: from then on they can't be pinned. The tip's
// digest, which the next delta names, is in B's seal, and that is kept as it was acknowledged. Of what the source's digests
// stood for nothing can be checked again after a merge; that is why 1 checks it, and why the merged delta has a digest of its
// own.
//
// A fold's target that failed to be written (1 of folding) may be on the disk all the same, and a crash would bring it
// back. Until a fold has come to its end, no point before such a target can be pinned, and no delta up to it is merged.
//
// Pinning: pins.json is replaced. The pin counts in memory before it is written, so that the point can't go meanwhile, and
// is taken back there if writing fails; the disk may keep it then, and a point is pinned that need not be. Unpinning: the
// other way round, first on the disk.
//
// Open: a process that was killed, while the machine ran on, leaves what it renamed under the new name, synced or not. So Open
// syncs the directory before it removes a file or tells the tip: otherwise a later loss of power could take back a delta that
// the source, having seen it as the tip, holds to be safe, or a position whose deltas have been removed.
//
// # Views, pins, folding and merging
//
// Fold never passes the oldest open view, nor the oldest pinned point: it folds up to it and says ErrViewOpen or ErrPinned. A
// view keeps the files that it needs: those folded or merged meanwhile are removed when it is closed, or by the next Open. So a
// view of a point goes on although that was merged away. Folding and merging exclude each other, and neither holds a lock that
// incoming deltas, views or pins wait for while it reads or writes.
//
// # A full disk
//
// Whatever is being written when the room ends (a delta, its index, its seal, a record, a merge) is removed again and did not
// happen; the error wraps ENOSPC. A fold that can't write its position, or its volume, is repeated. Retain goes on
// without merging then: folding is what makes room.
//
// # How it is tested
//
// TestCrash cuts the power at random operations of random histories, with operations that fail in between.
// TestCrashAfterEachOperation cuts it after every operation of one long history, with several selections of what was not
// synced. Both hold each point that was acknowledged and not given up against a model of the disk. TestEachOperationFails
// fails each operation once, TestEveryFlippedBit flips bits of every byte.
package journal
