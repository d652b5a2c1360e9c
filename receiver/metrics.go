package receiver

import (
	"syscall"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// Register shows the receiver's metrics in r. docs/METRICS.md is made of these tables.
//
// The device of a disk is the word of its host, which may change it at any time: so it is a label of disk_info alone, and a host
// can't make many series of one.
func (r *Receiver) Register(reg *metrics.Registry) error {
	return reg.Register(
		metrics.Group[*Receiver]{Rows: receiverRows, Items: func() []metrics.Item[*Receiver] { return metrics.One(r) }},
		metrics.Group[copyView]{Labels: []string{"disk", "host"}, Rows: copyRows, Items: r.copyViews},
	)
}

// copyView is the copy of one disk.
type copyView struct {
	*replicaCounts
	meta      journal.Meta
	points    journal.Summary
	usage     journal.Usage
	allocated block.Size
	connected bool
	damaged   bool
}

func (r *Receiver) copyViews() []metrics.Item[copyView] {
	var items []metrics.Item[copyView]
	for _, rep := range r.store.all() {
		v := copyView{
			replicaCounts: &rep.counts, meta: rep.journal.Meta(), points: rep.journal.Summary(), usage: rep.journal.Usage(),
			allocated: rep.vol.Allocated(), connected: rep.source() != "", damaged: rep.damage() != nil,
		}
		items = append(items, metrics.Item[copyView]{Of: v, Labels: []string{v.meta.Disk.String(), v.meta.Host}})
	}
	return items
}

// space is how much the file system of the receiver's directory has, and how much of it is left for this user.
func (r *Receiver) space() (total, free float64) {
	var fs syscall.Statfs_t
	if syscall.Statfs(r.cfg.Dir, &fs) != nil {
		return 0, 0 // a directory that is gone has no room
	}
	return float64(fs.Blocks) * float64(fs.Bsize), float64(fs.Bavail) * float64(fs.Bsize)
}

var receiverRows = []metrics.Row[*Receiver]{
	metrics.Gauge("understudy_receiver_space_bytes", "Size of the file system that journals and volumes lie on.",
		metrics.Value(func(r *Receiver) float64 { total, _ := r.space(); return total })),
	metrics.Gauge("understudy_receiver_space_free_bytes", "What is free of it for the receiver.",
		metrics.Value(func(r *Receiver) float64 { _, free := r.space(); return free })),
	metrics.Gauge("understudy_receiver_disks", "Disks that it has copies of.", metrics.Value(func(r *Receiver) int { return len(r.store.all()) })),
	metrics.Gauge("understudy_receiver_sessions", "Sessions that are open, by the role of the peer: source (an agent), viewer, operator, admin.",
		func(r *Receiver, out *metrics.Samples) {
			for _, role := range wire.Roles() {
				out.Put(float64(r.counts.sessions(role)), role.String())
			}
		}, "role"),
	metrics.Counter("understudy_receiver_sessions_total", "Sessions that were opened, by the same.",
		func(r *Receiver, out *metrics.Samples) {
			for role, n := range r.counts.began.Counts() {
				out.Put(float64(n), role.String())
			}
		}, "role"),
	metrics.Counter("understudy_receiver_refusals_total", "Requests and deltas of peers that were refused or failed, by role and code; docs/OPERATING.md, Refusals, has the codes.",
		func(r *Receiver, out *metrics.Samples) {
			for k, n := range r.counts.refusals.Counts() {
				out.Put(float64(n), k.role.String(), k.code.String())
			}
		}, "role", "code"),
	metrics.Counter("understudy_receiver_commands_total", "Commands of operators that were carried out: promote, accept, pin, unpin, audit.",
		func(r *Receiver, out *metrics.Samples) {
			for name, n := range r.counts.commands.Counts() {
				out.Put(float64(n), name)
			}
		}, "command"),
	metrics.Counter("understudy_receiver_certificates_total", "What was done about certificates by a receiver that has the CA: enrolled, renewed, invited (tokens made), revoked, failed (for a reason of its own).",
		func(r *Receiver, out *metrics.Samples) {
			if r.signer == nil {
				return
			}
			for what, n := range r.signer.done.Counts() {
				out.Put(float64(n), what)
			}
		}, "event"),
}

// timeOf puts the time of a point, if there is one.
func timeOf(of func(journal.Summary) *journal.Point) func(copyView, *metrics.Samples) {
	return func(v copyView, out *metrics.Samples) {
		if p := of(v.points); p != nil {
			out.PutTime(p.Time)
		}
	}
}

func counted(of func(copyView) int64) func(copyView, *metrics.Samples) { return metrics.Value(of) }

var copyRows = []metrics.Row[copyView]{
	metrics.Gauge("understudy_receiver_disk_info", "1; the label says what the disk is called on its host.",
		func(v copyView, out *metrics.Samples) { out.Put(1, v.meta.Name) }, "device"),
	metrics.Gauge("understudy_receiver_disk_size_bytes", "Size of the disk.", counted(func(v copyView) int64 { return int64(v.meta.Size) })),
	metrics.Gauge("understudy_receiver_source_connected", "1 while an agent has the disk open.", metrics.Flag(func(v copyView) bool { return v.connected })),
	metrics.Gauge("understudy_receiver_generation", "How often the copy was promoted.", counted(func(v copyView) int64 { return int64(v.meta.Generation) })),
	metrics.Gauge("understudy_receiver_points", "Recovery points that can be restored.", counted(func(v copyView) int64 { return int64(v.points.Points) })),
	metrics.Gauge("understudy_receiver_points_unproven", "Those of them before which a write may have been missed.", counted(func(v copyView) int64 { return int64(v.points.Unproven) })),
	metrics.Gauge("understudy_receiver_points_pinned", "Those of them that are pinned.", counted(func(v copyView) int64 { return int64(v.points.Pinned) })),
	metrics.Gauge("understudy_receiver_oldest_point_timestamp_seconds", "Time of the oldest point, seconds since 1970.", timeOf(func(s journal.Summary) *journal.Point { return s.Oldest })),
	metrics.Gauge("understudy_receiver_last_point_timestamp_seconds", "Time of the newest point of any class, seconds since 1970.", timeOf(func(s journal.Summary) *journal.Point { return s.Newest })),
	metrics.Gauge("understudy_receiver_last_consistent_point_timestamp_seconds", "The same of the newest that is one instant of the disk: what latest means.", timeOf(func(s journal.Summary) *journal.Point { return s.Consistent })),
	metrics.Gauge("understudy_receiver_last_proven_point_timestamp_seconds", "The same of the newest that is one instant and proven.", timeOf(func(s journal.Summary) *journal.Point { return s.Proven })),
	metrics.Gauge("understudy_receiver_journal_bytes", "Bytes of journal.", counted(func(v copyView) int64 { return int64(v.usage.Bytes) })),
	metrics.Gauge("understudy_receiver_journal_deltas", "Deltas in it.", counted(func(v copyView) int64 { return int64(v.usage.Count) })),
	metrics.Gauge("understudy_receiver_volume_bytes", "What the volume takes of its file system, holes apart.", counted(func(v copyView) int64 { return int64(v.allocated) })),
	metrics.Gauge("understudy_receiver_damaged", "1 where damage was found in the journal: nothing is added to the copy any more.", metrics.Flag(func(v copyView) bool { return v.damaged })),
	metrics.Counter("understudy_receiver_deltas_total", "Deltas that were made durable and acknowledged, by class; none is a part of a first sync or backlog.",
		func(v copyView, out *metrics.Samples) {
			for class, n := range v.deltas.Counts() {
				out.Put(float64(n), class.String())
			}
		}, "class"),
	metrics.Counter("understudy_receiver_deltas_dropped_total", "Deltas that were begun and not kept: the link broke, the source gave up, or the seal was refused. Their source sends them anew.",
		counted(func(v copyView) int64 { return v.dropped.Load() })),
	metrics.Counter("understudy_receiver_received_bytes_total", "Bytes of payload in the deltas that were made durable.", counted(func(v copyView) int64 { return v.payload.Load() })),
	metrics.Counter("understudy_receiver_covered_bytes_total", "Bytes of disk that those deltas cover.", counted(func(v copyView) int64 { return v.covered.Load() })),
	metrics.Counter("understudy_receiver_damaged_frames_total", "Frames that arrived with a wrong checksum, or could not be decoded. TLS is below: look at the memory of both hosts.",
		counted(func(v copyView) int64 { return v.damagedFrames.Load() })),
	metrics.Counter("understudy_receiver_retention_runs_total", "Runs of the retention.", counted(func(v copyView) int64 { return v.retention.Load() })),
	metrics.Counter("understudy_receiver_retention_failures_total", "Those of them that failed: points are kept until it works.", counted(func(v copyView) int64 { return v.unretained.Load() })),
	metrics.Counter("understudy_receiver_folded_deltas_total", "Deltas that were applied to the volume and dropped.", metrics.Value(func(v copyView) uint64 { return v.usage.FoldedDeltas })),
	metrics.Counter("understudy_receiver_merged_deltas_total", "Deltas that were merged into another one.", metrics.Value(func(v copyView) uint64 { return v.usage.MergedDeltas })),
	metrics.Counter("understudy_receiver_audits_total", "Audits that were made for an operator.", counted(func(v copyView) int64 { return v.audits.Load() })),
	metrics.Counter("understudy_receiver_damage_found_total", "Audits, and checks at the start of the receiver, that found damage.", counted(func(v copyView) int64 { return v.damage.Load() })),
	metrics.Counter("understudy_receiver_restores_total", "Restores that were sent to their end.", counted(func(v copyView) int64 { return v.restores.Load() })),
}
