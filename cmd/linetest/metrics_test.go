package linetest

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/packaging/observe"
)

// watched is a site whose daemons show their metrics.
type watched struct {
	*site
	agentAt, receiverAt string
}

func newWatched(t *testing.T) *watched {
	return &watched{newSite(t, "tcp"), freeAddr(t), freeAddr(t)}
}

func (w *watched) startReceiver(more ...string) *process {
	return w.site.startReceiver(append(more, "--metrics", w.receiverAt)...)
}

func (w *watched) startAgent(more []string, disks ...string) *process {
	args := append(w.agentArgs(disks...), "--metrics", w.agentAt)
	return start(w.t, "understudy-agent", append(args, more...)...)
}

func (w *watched) agent() *scrape    { return scrapeAt(w.t, w.agentAt) }
func (w *watched) receiver() *scrape { return scrapeAt(w.t, w.receiverAt) }

// words are the values of labels that the code bounds; nil for those that only what is configured bounds.
var words = map[string][]string{
	"disk": nil, "device": nil, "host": {"web1"}, "application": {"db"},
	"command": {"understudy-agent", "understudy-receiver", "promote", "accept", "pin", "unpin", "audit"}, "version": {"devel"}, "go": nil,
	"state": {"waiting", "fenced", "scanning", "syncing", "protected"}, "class": {"none", "crash", "application", "fuzzy"},
	"proven": {"true", "false"}, "reason": {
		"outpaced", "late", "thawed", "busy", "hook", "other",
		"rate", "half-open", "certificate", "clock", "token", "refused", "handshake",
	},
	"outcome": {"linked", "refused", "failed"}, "carrier": {"quic", "tcp"}, "purpose": {"send", "compare"},
	"part": {"freezing", "reading", "thawing"}, "hook": {"pre-freeze", "post-thaw"}, "kind": {"ebpf"},
	"counter": {"copy0_sectors", "copy1_sectors", "copy2_sectors", "found_sectors"},
	"role":    {"source", "target", "viewer", "operator", "admin"}, "code": {"fenced", "forbidden", "busy", "tip", "no-space", "corrupt", "protocol", "internal"},
	"event": {"enrolled", "renewed", "invited", "revoked", "failed"},
}

// complete holds that every metric is on the page with its kind, and has a sample unless it may have none yet.
func complete(t *testing.T, s *scrape, r *metrics.Registry, none ...string) {
	t.Helper()
	for _, f := range r.Families() {
		if s.kinds[f.Name] != string(f.Kind) {
			t.Errorf("%s: its type is %q, want %q", f.Name, s.kinds[f.Name], f.Kind)
		}
		samples := len(s.all(f.Name)) + len(s.all(f.Name+"_count"))
		if without := strings.Contains(strings.Join(none, " ")+" ", f.Name+" "); samples == 0 && !without {
			t.Errorf("%s has no sample", f.Name)
		} else if samples > 0 && without {
			t.Errorf("%s has a sample, and should have none yet", f.Name)
		}
	}
	if len(s.kinds) != len(r.Families()) {
		t.Errorf("the page has %d metrics, the code %d", len(s.kinds), len(r.Families()))
	}
}

// logsJSON holds that each line of a log is a document with time, level and message.
func logsJSON(t *testing.T, p *process) {
	t.Helper()
	n := 0
	for line := range strings.Lines(p.logged()) {
		var entry struct {
			Time  time.Time
			Level string
			Msg   string
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time.IsZero() || entry.Level == "" || entry.Msg == "" {
			t.Errorf("log line %q: %v", line, err)
		}
		n++
	}
	if n == 0 {
		t.Error("nothing was logged")
	}
}

// TestMetrics: a mounted disk and its application are protected, and both ends say so in numbers that agree with each other and
// with what was done.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	dev := w.loopDisk("disk", 64*mib)
	must(t, "mkfs.ext4", "-q", dev)
	mount := w.path("mnt")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", dev, mount)
	t.Cleanup(func() { must(t, "umount", mount) })
	config := w.path("agent.toml")
	if err := os.WriteFile(config, []byte("[log]\nformat = \"json\"\n[[application]]\nname = \"db\"\npre_freeze = \"/bin/true\"\npost_thaw = \"/bin/false\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.startReceiver()
	a := w.startAgent([]string{"--config", config}, dev)
	eventually(t, "some points, and a step of the verification", func() bool {
		s := w.agent()
		return s.sum("understudy_agent_points_total", "class=crash") >= 3 && s.sum("understudy_agent_verify_round_started_timestamp_seconds") > 0
	})
	first, there := w.agent(), w.receiver()
	ofAgent, err := observe.Agent()
	if err != nil {
		t.Fatal(err)
	}
	ofReceiver, err := observe.Receiver()
	if err != nil {
		t.Fatal(err)
	}
	complete(t, first, ofAgent,
		"understudy_agent_application_last_point_timestamp_seconds", // its second hook fails
		"understudy_agent_verify_last_full_timestamp_seconds", "understudy_agent_verify_last_mismatch_timestamp_seconds")
	complete(t, there, ofReceiver, "understudy_receiver_certificates_total")
	for _, s := range []*scrape{first, there} {
		s.lint()
		s.onlyLabels(words)
	}
	w.protectedNumbers(first, there, dev)

	w.numbersOfAWrite(first, there, dev, mount+"/file")
	for _, addr := range []string{w.agentAt, w.receiverAt} {
		if err := healthy(addr); err != nil {
			t.Errorf("healthz: %v", err)
		}
	}
	a.stop()
	logsJSON(t, a)
}

// numbersOfAWrite are those that 8 MiB make grow, and those that they must not.
func (w *watched) numbersOfAWrite(first, there *scrape, dev, file string) {
	t := w.t
	t.Helper()
	must(t, "dd", "if=/dev/urandom", "of="+file, "bs=1M", "count=8", "conv=fsync", "status=none")
	eventually(t, "what was written has arrived", func() bool {
		return w.agent().get("understudy_agent_sent_bytes_total") >= first.get("understudy_agent_sent_bytes_total")+8*mib
	})
	w.nextPoint(dev)
	second, after := w.agent(), w.receiver()
	for _, name := range []string{"understudy_agent_written_bytes_total", "understudy_agent_changed_bytes_total", "understudy_agent_link_sent_bytes_total"} {
		if grew := second.get(name) - first.get(name); grew < 8*mib || grew > 40*mib {
			t.Errorf("%s grew by %v while 8 MiB were written", name, grew)
		}
	}
	if grew := after.get("understudy_receiver_received_bytes_total") - there.get("understudy_receiver_received_bytes_total"); grew < 8*mib || grew > 40*mib {
		t.Errorf("the receiver took %v bytes in while 8 MiB were written", grew)
	}
	if second.sum("understudy_agent_points_total") <= first.sum("understudy_agent_points_total") || after.get("understudy_receiver_points") <= there.get("understudy_receiver_points") {
		t.Error("points came, and are not counted")
	}
	if second.series("") != first.series("") || after.series("") != there.series("") {
		t.Errorf("the agent went from %d series to %d, the receiver from %d to %d: points must not make any",
			first.series(""), second.series(""), there.series(""), after.series(""))
	}
	// docs/METRICS.md says so.
	if a, r := second.series(`{disk="`), after.series(`{disk="`); a > 54 || r > 30 {
		t.Errorf("a disk has %d series at its agent, %d at its receiver", a, r)
	}
}

// protectedNumbers are those of a disk that takes points, seen from both ends.
func (w *watched) protectedNumbers(a, r *scrape, dev string) {
	w.t.Helper()
	status, ok := w.status(dev)
	if !ok {
		w.t.Fatal("no status")
	}
	disk := "disk=" + status.ID.String()
	both := []string{disk, "device=" + dev}
	a.within(0, 10, "understudy_agent_rpo_seconds", both...)
	a.within(1, 1, "understudy_agent_disk_state", append(both, "state=protected")...)
	a.within(0, 0, "understudy_agent_disk_state", append(both, "state=fenced")...)
	a.within(64*mib, 64*mib, "understudy_agent_disk_size_bytes", both...)
	a.within(0.3, 0.3, "understudy_agent_interval_seconds", both...)
	a.within(1, 1, "understudy_agent_link_up")
	a.within(1, 1, "understudy_agent_link_carrier", "carrier=tcp")
	a.within(1, 1, "understudy_agent_dials_total", "outcome=linked")
	a.within(0, 0, "understudy_agent_verify_mismatches_total", both...)
	a.within(0, 64*mib, "understudy_agent_dirty_bytes", both...)
	a.within(64*mib, 128*mib, "understudy_agent_read_bytes_total", append(both, "purpose=send")...)
	a.within(0.05, 0.05, "understudy_agent_freeze_budget_seconds")
	a.within(3, 10000, "understudy_agent_freeze_seconds_count")
	freezes := a.get("understudy_agent_freeze_seconds_count")
	a.within(0.00001, freezes*0.5, "understudy_agent_freeze_seconds_sum")
	a.within(0, a.get("understudy_agent_freeze_seconds_sum"), "understudy_agent_freeze_part_seconds_sum", "part=reading")
	a.within(1, freezes, "understudy_agent_hook_seconds_count", "application=db", "hook=pre-freeze")
	a.within(0, 0, "understudy_agent_hook_failures_total", "application=db", "hook=pre-freeze")
	a.within(1, freezes, "understudy_agent_hook_failures_total", "application=db", "hook=post-thaw")
	a.within(8*mib, 400*mib, "process_resident_memory_bytes")
	a.recent("understudy_agent_last_consistent_point_timestamp_seconds", both...)
	a.recent("process_start_time_seconds")

	host := []string{disk, "host=web1"}
	r.within(1, 1, "understudy_receiver_disk_info", append(host, "device="+dev)...)
	r.recent("understudy_receiver_last_consistent_point_timestamp_seconds", host...)
	r.within(1, 10000, "understudy_receiver_points", host...)
	r.within(1, 1, "understudy_receiver_source_connected", host...)
	r.within(1, 1, "understudy_receiver_sessions", "role=source")
	r.within(0, 0, "understudy_receiver_damaged", host...)
	r.within(1000, 64*mib, "understudy_receiver_received_bytes_total", host...)
	r.within(0, 64*mib, "understudy_receiver_journal_bytes", host...)
	r.within(mib, 1<<50, "understudy_receiver_space_free_bytes")
	r.within(1, 10000, "understudy_receiver_retention_runs_total", host...)
	r.within(0, 0, "understudy_receiver_retention_failures_total", host...)
	for _, s := range []*scrape{a, r} {
		soon := float64(time.Now().Unix())
		s.within(soon+3600, soon+50*365*86400, "understudy_certificate_expiry_timestamp_seconds")
	}
}

// TestMetricsOfTrouble: what an alert is made of is there when there is trouble, and gone after it.
func TestMetricsOfTrouble(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	dev := w.loopDisk("disk", 96*mib)
	write(t, dev, 0, 64*mib)
	r := w.startReceiver()
	a := w.startAgent(nil, dev)
	w.sameAs(dev)

	w.gap(a)
	a = w.startAgent([]string{"--scan-rate", strconv.Itoa(4 * mib)}, dev)
	eventually(t, "a comparison with its numbers", func() bool {
		s := w.agent()
		return s.sum("understudy_agent_resync_active") == 1 && s.sum("understudy_agent_resync_left_bytes") > 0 && s.sum("understudy_agent_unproven") == 1 &&
			s.sum("understudy_agent_disk_state", "state=scanning") == 1 && s.sum("understudy_agent_points_total", "class=fuzzy", "proven=false") > 0 &&
			s.sum("understudy_agent_read_bytes_total", "purpose=compare") > 0 && len(s.all("understudy_agent_rpo_seconds")) == 0
	})
	there := w.receiver()
	if there.get("understudy_receiver_points_unproven") == 0 ||
		there.get("understudy_receiver_last_point_timestamp_seconds") <= there.get("understudy_receiver_last_consistent_point_timestamp_seconds") {
		t.Error("the receiver does not tell fuzzy points from consistent ones")
	}
	a.stop()
	w.startAgent(nil, dev)
	eventually(t, "all is well again", func() bool {
		s := w.agent()
		return len(s.all("understudy_agent_unproven")) == 1 && s.sum("understudy_agent_unproven") == 0 && s.sum("understudy_agent_resync_active") == 0 && len(s.all("understudy_agent_rpo_seconds")) == 1
	})

	r.kill()
	eventually(t, "the link is down, and the RPO grows", func() bool {
		s := w.agent()
		return s.sum("understudy_agent_link_up") == 0 && s.sum("understudy_agent_rpo_seconds") > 3 &&
			s.sum("understudy_agent_dials_total", "outcome=failed") > 0 && s.sum("understudy_agent_disk_state", "state=waiting") == 1
	})
	w.startReceiver()
	eventually(t, "it is back", func() bool {
		s := w.agent()
		return s.sum("understudy_agent_link_up") == 1 && s.sum("understudy_agent_rpo_seconds") < 3 && s.sum("understudy_agent_dials_total", "outcome=linked") >= 2
	})

	stranger, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(stranger, "GET / HTTP/1.0\r\n\r\n")
	defer stranger.Close()
	eventually(t, "the stranger is counted", func() bool {
		return w.receiver().get("understudy_receiver_turned_away_total", "carrier=tcp", "reason=handshake") >= 1
	})

	w.ours(w.remote("promote", dev)...)
	eventually(t, "it is fenced", func() bool { return w.agent().sum("understudy_agent_disk_state", "state=fenced") == 1 })
	there = w.receiver()
	there.within(1, 1, "understudy_receiver_generation")
	there.within(1, 1, "understudy_receiver_commands_total", "command=promote")
	there.within(0, 0, "understudy_receiver_source_connected")
	there.within(1, 100, "understudy_receiver_refusals_total", "role=source", "code=fenced")
	there.onlyLabels(words)
}

// TestMetricsOfAPortThatIsTaken: the agent protects all the same.
func TestMetricsOfAPortThatIsTaken(t *testing.T) {
	t.Parallel()
	w := newWatched(t)
	dev := w.loopDisk("disk", 16*mib)
	write(t, dev, 0, mib)
	l, err := net.Listen("tcp", w.agentAt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.startReceiver()
	a := w.startAgent(nil, dev)
	w.sameAs(dev)
	if !strings.Contains(a.logged(), "no metrics can be had") {
		t.Errorf("it does not say that there are no metrics:\n%s", a.logged())
	}
	if _, stderr, code := run(t, "understudy-receiver", "run", "--dir", w.rdir+"-x", "--listen", freeAddr(t), "--pki", w.path("target"), "--metrics", "14431"); code != 2 || !strings.Contains(stderr, "HOST:PORT") {
		t.Errorf("an address that is none: exit %d: %s", code, stderr)
	}
}
