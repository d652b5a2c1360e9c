package metrics

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// page is the text that one scrape gets.
type page struct {
	text []byte
	err  error // the first
}

// begin writes what a metric is.
func (p *page) begin(f Family) {
	p.text = fmt.Appendf(p.text, "# HELP %s %s\n# TYPE %s %s\n", f.Name, helpEscapes.Replace(f.Help), f.Name, f.Kind)
}

var (
	helpEscapes  = strings.NewReplacer("\\", `\\`, "\n", `\n`)
	labelEscapes = strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`)
)

// sample writes a line. more is a further label's name and value, or nothing.
func (p *page) sample(f Family, suffix string, labels []string, value float64, more ...string) {
	if len(labels) != len(f.Labels) {
		if p.err == nil {
			p.err = fmt.Errorf("metric %s has labels %q, given were the values %q", f.Name, f.Labels, labels)
		}
		return
	}
	p.text = append(append(p.text, f.Name...), suffix...)
	between := byte('{')
	label := func(name, value string) {
		p.text = append(append(append(p.text, between), name...), `="`...)
		// What a peer calls itself or its disk may be anything.
		p.text = append(append(p.text, labelEscapes.Replace(strings.ToValidUTF8(value, "?"))...), '"')
		between = ','
	}
	for i, name := range f.Labels {
		label(name, labels[i])
	}
	if len(more) > 0 {
		label(more[0], more[1])
	}
	if between == ',' {
		p.text = append(p.text, '}')
	}
	p.text = append(append(append(p.text, ' '), number(value)...), '\n')
}

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// Samples takes the samples of one metric of one item. What is not put is not shown: a metric that means nothing yet has no
// sample.
type Samples struct {
	page   *page
	family Family
	labels []string
}

// Put adds a sample. labels are the values of the row's labels, in their order.
func (s *Samples) Put(value float64, labels ...string) {
	s.page.sample(s.family, "", append(append([]string(nil), s.labels...), labels...), value)
}

// PutFlag puts 1 for true and 0 for false.
func (s *Samples) PutFlag(flag bool, labels ...string) {
	value := 0.0
	if flag {
		value = 1
	}
	s.Put(value, labels...)
}

// PutTime puts seconds since 1970, and nothing for the zero time.
func (s *Samples) PutTime(t time.Time, labels ...string) {
	if !t.IsZero() {
		s.Put(float64(t.UnixMilli())/1000, labels...)
	}
}

// PutHistogram adds all samples of a histogram.
func (s *Samples) PutHistogram(h *Histogram, labels ...string) {
	values := append(append([]string(nil), s.labels...), labels...)
	counts, sum := h.snapshot()
	total := uint64(0)
	for i, n := range counts {
		total += n
		bound := math.Inf(1)
		if i < len(h.bounds) {
			bound = h.bounds[i]
		}
		s.page.sample(s.family, "_bucket", values, float64(total), "le", number(bound))
	}
	s.page.sample(s.family, "_sum", values, sum)
	s.page.sample(s.family, "_count", values, float64(total))
}
