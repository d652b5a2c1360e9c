package metrics

// Kind is what a metric's number does.
type Kind string

// The kinds.
const (
	KindGauge     Kind = "gauge"     // goes up and down
	KindCounter   Kind = "counter"   // goes up, from 0 at a start of the daemon
	KindHistogram Kind = "histogram" // counts observations by their size
)

// Family is one metric.
type Family struct {
	Name   string
	Kind   Kind
	Help   string   // one sentence, for the page and for docs/METRICS.md
	Labels []string // their names, in the order of their values
}

// Row is one metric of things of type T, and how its samples are taken of one of them.
type Row[T any] struct {
	Name   string
	Kind   Kind
	Help   string
	Labels []string // besides those of the group
	Of     func(t T, out *Samples)
}

// Gauge makes a row of a number that goes up and down.
func Gauge[T any](name, help string, of func(T, *Samples), labels ...string) Row[T] {
	return Row[T]{Name: name, Kind: KindGauge, Help: help, Labels: labels, Of: of}
}

// Counter makes a row of a number that only goes up; its name ends in _total.
func Counter[T any](name, help string, of func(T, *Samples), labels ...string) Row[T] {
	return Row[T]{Name: name, Kind: KindCounter, Help: help, Labels: labels, Of: of}
}

// Distribution makes a row of histograms.
func Distribution[T any](name, help string, of func(T, *Samples), labels ...string) Row[T] {
	return Row[T]{Name: name, Kind: KindHistogram, Help: help, Labels: labels, Of: of}
}

// Item is a thing that has metrics, and the values of its group's labels.
type Item[T any] struct {
	Of     T
	Labels []string
}

// Group is metrics of the same things.
type Group[T any] struct {
	Labels []string // names
	Rows   []Row[T]
	// Items is called once for each scrape, beside all else that the daemon does. Their labels must differ.
	Items func() []Item[T]
}

// Families are the group's metrics.
func (g Group[T]) Families() []Family {
	var list []Family
	for _, r := range g.Rows {
		list = append(list, Family{Name: r.Name, Kind: r.Kind, Help: r.Help, Labels: append(append([]string(nil), g.Labels...), r.Labels...)})
	}
	return list
}

func (g Group[T]) write(p *page) {
	items := g.Items()
	for i, f := range g.Families() {
		p.begin(f)
		for _, item := range items {
			g.Rows[i].Of(item.Of, &Samples{page: p, family: f, labels: item.Labels})
		}
	}
}

// One is the only item of a group without labels.
func One[T any](t T) []Item[T] { return []Item[T]{{Of: t}} }

// Value makes a row's Of of a number that is always there.
func Value[T any, N int | int64 | uint64 | float64](of func(T) N) func(T, *Samples) {
	return func(t T, out *Samples) { out.Put(float64(of(t))) }
}

// Flag makes a row's Of of a yes (1) or no (0).
func Flag[T any](of func(T) bool) func(T, *Samples) {
	return func(t T, out *Samples) { out.PutFlag(of(t)) }
}
