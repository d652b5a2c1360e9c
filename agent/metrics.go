package agent

import (
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/metrics"
)

// Register shows the agent's metrics in r. docs/METRICS.md is made of these tables.
func (a *Agent) Register(r *metrics.Registry) error {
	return r.Register(
		metrics.Group[glance]{Rows: agentRows, Items: func() []metrics.Item[glance] { return metrics.One(a.glance()) }},
		metrics.Group[diskView]{Labels: []string{"disk", "device"}, Rows: diskRows, Items: a.diskViews},
		metrics.Group[hookView]{Labels: []string{"application"}, Rows: hookRows, Items: a.hookViews},
	)
}

// glance is the agent as a whole.
type glance struct {
	cfg     Config
	link    LinkStatus
	in, out uint64 // bytes moved over the link
	counts  agentCounts
	frozen  time.Duration // how long the freeze under way has lasted
}

func (a *Agent) glance() glance {
	g := glance{cfg: a.cfg, counts: a.counts}
	if since := a.frozen.Load(); since != 0 {
		g.frozen = time.Since(time.Unix(0, since))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g.link, g.in, g.out = a.link, a.moved.In, a.moved.Out
	if a.session != nil {
		stats := a.session.Stats()
		g.in, g.out = g.in+stats.In, g.out+stats.Out
	}
	return g
}

// diskView is one disk: its status, and what that does not count.
type diskView struct {
	DiskStatus
	*diskCounts
	interval time.Duration // as configured
	read     int64
}

func (a *Agent) diskViews() []metrics.Item[diskView] {
	a.mu.Lock()
	disks := append([]*disk(nil), a.disks...)
	a.mu.Unlock()
	var items []metrics.Item[diskView]
	for _, d := range disks {
		v := diskView{DiskStatus: d.Status(), diskCounts: &d.counts, interval: a.cfg.Interval, read: d.pump.read.Load()}
		items = append(items, metrics.Item[diskView]{Of: v, Labels: []string{v.ID.String(), v.Device}})
	}
	return items
}

// hookView is one application and its hooks.
type hookView struct {
	ApplicationStatus
	hooks map[string]*hookCounts // by name
}

func (a *Agent) hookViews() []metrics.Item[hookView] {
	var items []metrics.Item[hookView]
	for _, s := range a.hooks.Status() {
		v := hookView{ApplicationStatus: s, hooks: map[string]*hookCounts{}}
		for _, which := range hookNames {
			v.hooks[which] = a.hooks.counts[hookKey{s.Name, which}]
		}
		items = append(items, metrics.Item[hookView]{Of: v, Labels: []string{s.Name}})
	}
	return items
}

var hookNames = []string{preFreeze, postThaw}

// states are all that a disk may be in.
var states = []State{StateWaiting, StateFenced, StateScanning, StateSyncing, StateProtected}

// age is how old a point of that time is, in seconds; the clock may have been set back.
func age(t time.Time) float64 { return max(0, time.Since(t).Seconds()) }

var agentRows = []metrics.Row[glance]{
	metrics.Gauge("understudy_agent_link_up", "1 while there is a session with the receiver.",
		metrics.Flag(func(g glance) bool { return g.link.Connected })),
	metrics.Gauge("understudy_agent_link_since_timestamp_seconds", "When the link came up, or was lost; seconds since 1970.",
		func(g glance, out *metrics.Samples) { out.PutTime(g.link.Since) }),
	metrics.Gauge("understudy_agent_link_carrier", "1 for the carrier of the session, quic or tcp; nothing while there is none.",
		func(g glance, out *metrics.Samples) {
			if g.link.Connected {
				out.Put(1, g.link.Carrier)
			}
		}, "carrier"),
	metrics.Counter("understudy_agent_dials_total", "Tries to link, by outcome: linked, refused (the receiver said no) or failed (nobody answered). A link that is lost again and again shows as linked growing.",
		func(g glance, out *metrics.Samples) {
			for outcome, n := range g.counts.dials.Counts() {
				out.Put(float64(n), outcome)
			}
		}, "outcome"),
	metrics.Counter("understudy_agent_link_received_bytes_total", "Bytes received from the receiver, with TLS, without headers of TCP, UDP and IP.",
		metrics.Value(func(g glance) uint64 { return g.in })),
	metrics.Counter("understudy_agent_link_sent_bytes_total", "Bytes sent to the receiver, counted in the same way.",
		metrics.Value(func(g glance) uint64 { return g.out })),
	metrics.Distribution("understudy_agent_freeze_seconds", "How long freezes of mounted file systems lasted, from the first freeze to the last thaw; a disk of which nothing is mounted needs none.",
		func(g glance, out *metrics.Samples) { out.PutHistogram(g.counts.freeze) }),
	metrics.Distribution("understudy_agent_freeze_part_seconds", "The parts of freezes: freezing (until all is frozen), reading (what changed last) and thawing.",
		func(g glance, out *metrics.Samples) {
			for _, part := range freezeParts {
				out.PutHistogram(g.counts.parts[part], part)
			}
		}, "part"),
	metrics.Gauge("understudy_agent_freeze_budget_seconds", "What a freeze is made to stay under (freeze_budget).",
		metrics.Value(func(g glance) float64 { return g.cfg.FreezeBudget.Seconds() })),
	metrics.Gauge("understudy_agent_frozen_seconds", "How long the freeze under way has lasted; 0 while nothing is frozen.",
		metrics.Value(func(g glance) float64 { return g.frozen.Seconds() })),
	metrics.Counter("understudy_agent_guard_thaws_total", "Freezes that the guard ended since the agent did not in time.",
		metrics.Value(func(g glance) int64 { return g.counts.thaws.Load() })),
	metrics.Gauge("understudy_agent_memory_limit_bytes", "The agent's memory as configured (memory); process_resident_memory_bytes is what it holds.",
		metrics.Value(func(g glance) int64 { return int64(g.cfg.Memory) })),
}

var hookRows = []metrics.Row[hookView]{
	metrics.Gauge("understudy_agent_application_last_point_timestamp_seconds", "When the newest point was taken that all hooks of the application succeeded for; seconds since 1970. Nothing before the first.",
		func(v hookView, out *metrics.Samples) { out.PutTime(v.Point) }),
	metrics.Distribution("understudy_agent_hook_seconds", "How long an application's hooks (pre-freeze, post-thaw) ran, those that failed too.",
		func(v hookView, out *metrics.Samples) {
			for _, which := range hookNames {
				out.PutHistogram(v.hooks[which].took, which)
			}
		}, "hook"),
	metrics.Counter("understudy_agent_hook_failures_total", "Runs of an application's hooks that failed or were killed at their time limit.",
		func(v hookView, out *metrics.Samples) {
			for _, which := range hookNames {
				out.Put(float64(v.hooks[which].failed.Load()), which)
			}
		}, "hook"),
}

// putPoints puts the counts of points by what they are worth.
func putPoints(v diskView, out *metrics.Samples) {
	for kind, n := range v.points.Counts() {
		out.Put(float64(n), kind.class.String(), strconv.FormatBool(kind.proven))
	}
}

func bytesOf(of func(diskView) block.Size) func(diskView, *metrics.Samples) {
	return metrics.Value(func(v diskView) int64 { return int64(of(v)) })
}
