package metrics

import (
	"bytes"
	"math"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// parse reads a page with Prometheus' own parser.
func parse(t *testing.T, page []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil {
		t.Fatalf("%v:\n%s", err, page)
	}
	return families
}

type pump struct {
	level   float64
	strokes Tally[string]
	took    *Histogram
}

// odd is all that a text format could stumble over.
const odd = "a\"b\\c\nd\xffe\u00fc{},= "

func pumps() (*Registry, *pump) {
	p := &pump{level: math.Inf(1), took: NewHistogram(0.1, 1)}
	p.strokes.Begin("up", "down")
	r := &Registry{}
	err := r.Register(Group[*pump]{
		Labels: []string{"house"},
		Items:  func() []Item[*pump] { return []Item[*pump]{{p, []string{odd}}, {p, []string{"two"}}} },
		Rows: []Row[*pump]{
			Gauge("pump_level_bytes", "What is \\ in it,\nin bytes.", Value(func(p *pump) float64 { return p.level })),
			Counter("pump_strokes_total", "Strokes.", func(p *pump, out *Samples) {
				for way, n := range p.strokes.Counts() {
					out.Put(float64(n), way)
				}
			}, "way"),
			Distribution("pump_seconds", "How long.", func(p *pump, out *Samples) { out.PutHistogram(p.took, "x") }, "kind"),
			Gauge("pump_full", "Is it?", Flag(func(p *pump) bool { return p.level > 1 })),
			Gauge("pump_since_timestamp_seconds", "When.", func(_ *pump, out *Samples) { out.PutTime(time.UnixMilli(1500)) }),
			Gauge("pump_never_timestamp_seconds", "When not.", func(_ *pump, out *Samples) { out.PutTime(time.Time{}) }),
		},
	})
	if err != nil {
		panic(err)
	}
	return r, p
}

// TestThePageIsPrometheus: its own parser reads what was put, whatever is in the labels.
func TestThePageIsPrometheus(t *testing.T) {
	r, p := pumps()
	p.strokes.Add("up", 3)
	for _, v := range []float64{0.05, 0.1, 0.5, 7} {
		p.took.Observe(v)
	}
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	got := parse(t, page)
	level := got["pump_level_bytes"]
	if level.GetType() != dto.MetricType_GAUGE || level.GetHelp() != "What is \\ in it,\nin bytes." || !math.IsInf(level.Metric[0].GetGauge().GetValue(), 1) {
		t.Errorf("the gauge: %v", level)
	}
	if label := level.Metric[0].Label[0]; label.GetName() != "house" || label.GetValue() != strings.ReplaceAll(odd, "\xff", "?") {
		t.Errorf("the label came as %q", label.GetValue())
	}
	strokes := map[string]float64{}
	for _, m := range got["pump_strokes_total"].Metric {
		if m.Label[0].GetValue() == "two" {
			strokes[m.Label[1].GetValue()] = m.GetCounter().GetValue()
		}
	}
	if len(strokes) != 2 || strokes["up"] != 3 || strokes["down"] != 0 {
		t.Errorf("the counter: %v", strokes)
	}
	h := got["pump_seconds"].Metric[1].GetHistogram()
	want := []uint64{2, 3, 4}
	for i, b := range h.GetBucket() {
		if b.GetCumulativeCount() != want[i] {
			t.Errorf("bucket up to %v has %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want[i])
		}
	}
	if len(h.GetBucket()) != 3 || h.GetSampleCount() != 4 || math.Abs(h.GetSampleSum()-7.65) > 1e-9 {
		t.Errorf("the histogram: %v", h)
	}
	if got["pump_full"].Metric[0].GetGauge().GetValue() != 1 || got["pump_since_timestamp_seconds"].Metric[0].GetGauge().GetValue() != 1.5 {
		t.Error("flag or time is not what was put")
	}
	if got["pump_never_timestamp_seconds"] != nil {
		t.Error("a time that there is none of has a sample")
	}
}

// TestScrape: a page that lacks something is an error, not a quiet daemon.
func TestScrape(t *testing.T) {
	r, _ := pumps()
	reply := httptest.NewRecorder()
	r.ServeHTTP(reply, httptest.NewRequest("GET", "/metrics", nil))
	if reply.Code != 200 || reply.Header().Get("Content-Type") != ContentType {
		t.Errorf("%d, %s", reply.Code, reply.Header())
	}
	parse(t, reply.Body.Bytes())
	bad := Gauge("bad", "One label too many.", func(_ int, out *Samples) { out.Put(1, "more") })
	if err := r.Register(Group[int]{Rows: []Row[int]{bad}, Items: func() []Item[int] { return One(1) }}); err != nil {
		t.Fatal(err)
	}
	reply = httptest.NewRecorder()
	r.ServeHTTP(reply, httptest.NewRequest("GET", "/metrics", nil))
	if reply.Code != 500 || !strings.Contains(reply.Body.String(), "bad") {
		t.Errorf("a label too many: %d, %s", reply.Code, reply.Body)
	}
}

func TestRegisterRefuses(t *testing.T) {
	none := func(int, *Samples) {}
	for name, row := range map[string]Row[int]{
		"a name that is taken":  Gauge("pump_level_bytes", "", none),
		"a name with a hyphen":  Gauge("pump-level", "", none),
		"a label with a hyphen": Gauge("pump", "", none, "a-b"),
		"a label of Prometheus": Gauge("pump", "", none, "__name__"),
	} {
		r, _ := pumps()
		if r.Register(Group[int]{Rows: []Row[int]{row}}) == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestProcess holds what a daemon says of itself against what it is.
func TestProcess(t *testing.T) {
	var r Registry
	started := time.Now().Add(-time.Minute)
	if err := r.Register(Process("pumpd", "1.2.3", started)); err != nil {
		t.Fatal(err)
	}
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	got := parse(t, page)
	value := func(name string) float64 {
		m := got[name].GetMetric()[0]
		return m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	if v := value("process_resident_memory_bytes"); v < 1<<20 || v > 4<<30 {
		t.Errorf("%v bytes of memory", v)
	}
	if v := value("process_cpu_seconds_total"); v <= 0 || v > 600 {
		t.Errorf("%v s of processor", v)
	}
	before := value("process_open_fds")
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, _ = r.Page()
	got = parse(t, page)
	if after := value("process_open_fds"); after != before+1 {
		t.Errorf("%v files after one more than %v", after, before)
	}
	if v := value("process_start_time_seconds"); math.Abs(v-float64(started.UnixNano())/1e9) > 0.01 {
		t.Errorf("started at %v", v)
	}
	info := map[string]string{}
	for _, l := range got["understudy_build_info"].GetMetric()[0].GetLabel() {
		info[l.GetName()] = l.GetValue()
	}
	if info["command"] != "pumpd" || info["version"] != "1.2.3" || info["go"] != runtime.Version() {
		t.Errorf("build info: %v", info)
	}
}
