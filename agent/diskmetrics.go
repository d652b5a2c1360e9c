package agent

import (
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/metrics"
)

// diskRows are the metrics of one disk.
var diskRows = append(append(append(pointRows, dirtyRows...), compareRows...), trackRows...)

// pointRows tell what an operator loses if the host is gone now.
var pointRows = []metrics.Row[diskView]{
	metrics.Gauge("understudy_agent_disk_size_bytes", "Size of the disk.", bytesOf(func(v diskView) block.Size { return v.Size })),
	metrics.Gauge("understudy_agent_disk_state", "1 for the state that the disk is in, 0 for the others: waiting, fenced, scanning, syncing, protected.",
		func(v diskView, out *metrics.Samples) {
			for _, s := range states {
				out.PutFlag(v.State == s, string(s))
			}
		}, "state"),
	metrics.Gauge("understudy_agent_rpo_seconds", "Age of the newest point that is one instant of the disk and that the receiver has durably: what a fail-over to latest would lose now. Nothing before the first that this agent took.",
		func(v diskView, out *metrics.Samples) {
			if !v.Consistent.IsZero() {
				out.Put(age(v.Consistent))
			}
		}),
	metrics.Gauge("understudy_agent_last_point_timestamp_seconds", "Time of the newest acknowledged point of any class, seconds since 1970.",
		func(v diskView, out *metrics.Samples) {
			if v.LastPoint != nil {
				out.PutTime(v.LastPoint.Time)
			}
		}),
	metrics.Gauge("understudy_agent_last_consistent_point_timestamp_seconds", "The same of the newest that is one instant of the disk (class crash or application).",
		func(v diskView, out *metrics.Samples) { out.PutTime(v.Consistent) }),
	metrics.Gauge("understudy_agent_last_proven_point_timestamp_seconds", "The same of the newest that is one instant and proven: no write before it may have been missed.",
		func(v diskView, out *metrics.Samples) { out.PutTime(v.ProvenAt) }),
	metrics.Counter("understudy_agent_points_total", "Points that the receiver has acknowledged, by class (crash, application, fuzzy) and whether they are proven.",
		putPoints, "class", "proven"),
	metrics.Counter("understudy_agent_points_absent_total", "Points that were tried and did not come, by reason: outpaced (writes are faster than the link or the disk), late (the freeze took too long), thawed (somebody else thawed), busy (writes go past the frozen file systems), hook, other.",
		func(v diskView, out *metrics.Samples) {
			for reason, n := range v.absent.Counts() {
				out.Put(float64(n), reason)
			}
		}, "reason"),
	metrics.Gauge("understudy_agent_interval_seconds", "From one point to the next, as configured (interval).",
		metrics.Value(func(v diskView) float64 { return v.interval.Seconds() })),
	metrics.Gauge("understudy_agent_interval_in_force_seconds", "The same as it is now: longer while points do not come.",
		metrics.Value(func(v diskView) float64 {
			if v.Pace == nil || v.Pace.Interval == 0 {
				return v.interval.Seconds()
			}
			return v.Pace.Interval.Seconds()
		})),
	metrics.Gauge("understudy_agent_generation", "Generation of the disk, raised by each promotion of its copy that this host has rejoined after.",
		metrics.Value(func(v diskView) int64 { return int64(v.Generation) })),
}

// paced makes a row of the measurement of the last point, of which there is none before the first.
func paced(of func(*PaceStatus) float64) func(diskView, *metrics.Samples) {
	return func(v diskView, out *metrics.Samples) {
		if v.Pace != nil {
			out.Put(of(v.Pace))
		}
	}
}

// dirtyRows tell what is written and what travels.
var dirtyRows = []metrics.Row[diskView]{
	metrics.Gauge("understudy_agent_dirty_bytes", "Bytes of disk that the receiver has not acknowledged yet.", bytesOf(func(v diskView) block.Size { return v.Pending })),
	metrics.Counter("understudy_agent_written_bytes_total", "Bytes written to the disk, as the tracker counts them; goes on over restarts of the agent, and begins anew with the host.",
		bytesOf(func(v diskView) block.Size { return v.Tracker.Marked })),
	metrics.Counter("understudy_agent_changed_bytes_total", "Bytes of disk that points held.", bytesOf(func(v diskView) block.Size { return v.Changed })),
	metrics.Counter("understudy_agent_sent_bytes_total", "Bytes of payload that the receiver acknowledged: compressed, and without zeroes.", bytesOf(func(v diskView) block.Size { return v.Sent })),
	metrics.Counter("understudy_agent_read_bytes_total", "Bytes read from the disk, by purpose: send or compare.",
		func(v diskView, out *metrics.Samples) {
			out.Put(float64(v.read), "send")
			out.Put(float64(v.compared.Load()), "compare")
		}, "purpose"),
	metrics.Gauge("understudy_agent_dirtied_bytes_per_second", "How fast the disk was written while the last point was taken.",
		paced(func(p *PaceStatus) float64 { return p.Dirtied })),
	metrics.Gauge("understudy_agent_drained_bytes_per_second", "How many bytes of disk were acknowledged in a second meanwhile; 0 before enough was sent to tell.",
		paced(func(p *PaceStatus) float64 { return p.Drained })),
	metrics.Gauge("understudy_agent_converging", "0 while the disk is written faster than its changes are read and sent, so that no point comes; else 1.",
		func(v diskView, out *metrics.Samples) { out.PutFlag(v.Pace == nil || v.Pace.Converging) }),
	metrics.Gauge("understudy_agent_sync_left_bytes", "Bytes of disk that a first sync, or the backlog of an outage, has still to send; 0 while there is none.",
		bytesOf(func(v diskView) block.Size {
			if v.State != StateSyncing {
				return 0
			}
			return v.Total - v.Done
		})),
	metrics.Gauge("understudy_agent_sync_eta_seconds", "A guess at how long that takes; 0 where nothing can be said.",
		metrics.Value(func(v diskView) float64 { return v.Left })),
}

// scanned makes a row of the comparison under way, 0 while there is none.
func scanned(of func(*ScanStatus) float64) func(diskView, *metrics.Samples) {
	return metrics.Value(func(v diskView) float64 {
		if v.Scan == nil {
			return 0
		}
		return of(v.Scan)
	})
}

// compareRows tell how the copy is proven.
var compareRows = []metrics.Row[diskView]{
	metrics.Gauge("understudy_agent_resync_active", "1 while the whole disk is compared with its copy, after a gap in tracking or a write that may have been missed.",
		metrics.Flag(func(v diskView) bool { return v.Scan != nil })),
	metrics.Gauge("understudy_agent_resync_left_bytes", "Bytes of disk that it has still to compare; 0 while there is none.",
		scanned(func(s *ScanStatus) float64 { return float64(s.Total - s.Done) })),
	metrics.Gauge("understudy_agent_resync_differing_bytes", "Bytes of disk that it found to differ since it began or went on.",
		scanned(func(s *ScanStatus) float64 { return float64(s.Differing) })),
	metrics.Gauge("understudy_agent_resync_eta_seconds", "A guess at how long it takes; 0 where nothing can be said.",
		scanned(func(s *ScanStatus) float64 { return s.Left })),
	metrics.Gauge("understudy_agent_verify_every_seconds", "In what time the rolling verification is to make a round (verify_every); negative: it is off.",
		metrics.Value(func(v diskView) float64 { return v.Verify.Every })),
	metrics.Gauge("understudy_agent_verify_round_done_bytes", "Bytes of disk that its round under way has compared.", bytesOf(func(v diskView) block.Size { return v.Verify.Done })),
	metrics.Gauge("understudy_agent_verify_round_started_timestamp_seconds", "When that round began, seconds since 1970.",
		func(v diskView, out *metrics.Samples) { out.PutTime(v.Verify.Started) }),
	metrics.Gauge("understudy_agent_verify_last_full_timestamp_seconds", "When the last whole round ended, seconds since 1970. Nothing before the first.",
		func(v diskView, out *metrics.Samples) { out.PutTime(v.Verify.LastFull) }),
	metrics.Counter("understudy_agent_verify_mismatches_total", "Blocks that the rolling verification found to differ without being due to be sent, ever: it goes on over restarts.",
		metrics.Value(func(v diskView) int { return v.Verify.Mismatches })),
	metrics.Gauge("understudy_agent_verify_last_mismatch_timestamp_seconds", "When it last did, seconds since 1970. Nothing before the first.",
		func(v diskView, out *metrics.Samples) { out.PutTime(v.Verify.Mismatched) }),
	metrics.Counter("understudy_agent_repaired_bytes_total", "Bytes that the rolling verification, or understudy verify, found to differ and had sent again.",
		metrics.Value(func(v diskView) int64 { return v.repaired.Load() })),
}

// trackRows tell what the tracker can stand behind.
var trackRows = []metrics.Row[diskView]{
	metrics.Gauge("understudy_agent_tracker_info", "1; the label says by what the disk is tracked.",
		func(v diskView, out *metrics.Samples) { out.Put(1, v.Tracker.Kind) }, "kind"),
	metrics.Counter("understudy_agent_audit_shortfalls_total", "Audits in which the tracker could not stand behind what it had marked.",
		metrics.Value(func(v diskView) int { return v.Shortfalls })),
	metrics.Gauge("understudy_agent_unproven", "1 while something is left to be compared after a gap in tracking or an audit that failed: points are flagged as unproven until then.",
		metrics.Flag(func(v diskView) bool { return !v.Proven })),
	metrics.Counter("understudy_agent_tracker_events_total", "Counters of the tracker, by name; copyN_sectors are sectors seen by copy N of its program, found_sectors those that only its table of writes in flight showed.",
		func(v diskView, out *metrics.Samples) {
			for name, n := range v.Tracker.Counters {
				out.Put(float64(n), name)
			}
		}, "counter"),
}
