package linetest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scrape is what a daemon shows, as Prometheus reads it.
type scrape struct {
	t      *testing.T
	page   string
	values map[string]float64 // by "name{label=value,…}", labels in the order of their names; of a histogram its _count and _sum
	kinds  map[string]string
	labels map[string]map[string]bool // the values of each label's name
}

// scrapeAt asks the daemon at addr until it answers.
func scrapeAt(t *testing.T, addr string) *scrape {
	t.Helper()
	s := &scrape{t: t, values: map[string]float64{}, kinds: map[string]string{}, labels: map[string]map[string]bool{}}
	eventually(t, "metrics at "+addr, func() bool {
		reply, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			return false
		}
		defer reply.Body.Close()
		body, err := io.ReadAll(reply.Body)
		s.page = string(body)
		if err != nil || reply.StatusCode != 200 {
			t.Fatalf("%v, %d: %s", err, reply.StatusCode, body)
		}
		return true
	})
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(s.page))
	if err != nil {
		t.Fatalf("Prometheus can't read it: %v\n%s", err, s.page)
	}
	for name, f := range families {
		for _, m := range f.Metric {
			s.take(name, f.GetType(), m)
		}
	}
	for line := range strings.Lines(s.page) {
		if words := strings.Fields(line); len(words) == 4 && words[1] == "TYPE" {
			s.kinds[words[2]] = words[3]
		}
	}
	return s
}

func (s *scrape) take(name string, kind dto.MetricType, m *dto.Metric) {
	var labels []string
	for _, l := range m.Label {
		labels = append(labels, l.GetName()+"="+l.GetValue())
		if s.labels[l.GetName()] == nil {
			s.labels[l.GetName()] = map[string]bool{}
		}
		s.labels[l.GetName()][l.GetValue()] = true
	}
	slices.Sort(labels)
	key := func(suffix string) string { return name + suffix + "{" + strings.Join(labels, ",") + "}" }
	if kind == dto.MetricType_HISTOGRAM {
		s.values[key("_count")] = float64(m.GetHistogram().GetSampleCount())
		s.values[key("_sum")] = m.GetHistogram().GetSampleSum()
		return
	}
	if _, twice := s.values[key("")]; twice {
		s.t.Errorf("%s is there twice", key(""))
	}
	s.values[key("")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
}

// get is the only sample of that name that has these labels ("name=value") among its own.
func (s *scrape) get(name string, labels ...string) float64 {
	s.t.Helper()
	found := s.all(name, labels...)
	if len(found) != 1 {
		s.t.Fatalf("%s %v: %d samples, want 1", name, labels, len(found))
	}
	return found[0]
}

// sum adds those samples up.
func (s *scrape) sum(name string, labels ...string) (sum float64) {
	for _, v := range s.all(name, labels...) {
		sum += v
	}
	return sum
}

func (s *scrape) all(name string, labels ...string) (found []float64) {
	for key, v := range s.values {
		of, rest, _ := strings.Cut(strings.TrimSuffix(key, "}"), "{")
		have := strings.Split(rest, ",")
		if of == name && !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(have, l) }) {
			found = append(found, v)
		}
	}
	return found
}

// within holds that a value lies between two others, both included.
func (s *scrape) within(least, most float64, name string, labels ...string) {
	s.t.Helper()
	if v := s.get(name, labels...); v < least || v > most {
		s.t.Errorf("%s %v is %v, want %v to %v", name, labels, v, least, most)
	}
}

// recent holds that a time lies in the last minute.
func (s *scrape) recent(name string, labels ...string) {
	s.t.Helper()
	now := float64(time.Now().UnixMilli()) / 1000
	s.within(now-60, now+1, name, labels...)
}

// onlyLabels holds that nothing else is a label, or the value of one whose values are bounded by what the code knows.
func (s *scrape) onlyLabels(allowed map[string][]string) {
	s.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.labels)) {
		values, ok := allowed[name]
		if !ok {
			s.t.Errorf("label %s with the values %v is not known to be bounded", name, slices.Sorted(maps.Keys(s.labels[name])))
		}
		for value := range s.labels[name] {
			if values != nil && !slices.Contains(values, value) {
				s.t.Errorf("label %s has the value %q, which is none of %q", name, value, values)
			}
		}
	}
}

// lint holds the page against what Prometheus' own tool finds wrong with it.
func (s *scrape) lint() {
	s.t.Helper()
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(s.page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		s.t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// series is how many there are that have a part of text.
func (s *scrape) series(part string) int {
	n := 0
	for line := range strings.Lines(s.page) {
		if !strings.HasPrefix(line, "#") && strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// healthy asks a daemon whether it works.
func healthy(addr string) error {
	reply, err := http.Get("http://" + addr + "/healthz")
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != 200 {
		return fmt.Errorf("status %d", reply.StatusCode)
	}
	return nil
}
