// Package receiver is the target role: it takes deltas in, makes them durable, and gives recovery points back.
//
// # Flow
//
//	link ═▶ session ▸ verify each frame ▸ journal (replicate.go) ▸ ack        one stream a disk
//	                                        │
//	                                        └▶ retention ▸ fold ▸ volume (fold.go)   one goroutine a disk
//	operator ═▶ query, read (query.go, restore.go);  source ═▶ scan (scan.go)  one stream a request
//	every request ═▶ may this peer, and of which disks? (authorise.go)
//
// A delta is acknowledged when its seal is synced and not before. What arrives is checked at once (frame checksums, counts,
// the digest chain at the seal) and stored as it came.
//
// # On disk
//
//	DIR/receiver.json          the directory's version
//	DIR/disks/DISK-ID/         the journal's files (receiver/journal)
//	DIR/disks/DISK-ID/volume.raw
//	DIR/disks/DISK-ID/identity.json  the machine that the disk belongs to (identity.go)
package receiver
