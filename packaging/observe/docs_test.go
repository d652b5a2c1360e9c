package observe

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/metrics"
)

var update = flag.Bool("update", false, "write the tables into docs/METRICS.md")

// TestMetricsAreDocumented: the tables of docs/METRICS.md are those of the code, no metric more and none less.
func TestMetricsAreDocumented(t *testing.T) {
	const path = "../../docs/METRICS.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for name, want := range documented(t) {
		begin, end := "<!-- "+name+": from the code -->\n", "<!-- end -->\n"
		before, rest, ok := strings.Cut(text, begin)
		got, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no table of %s", path, name)
		}
		if got != want && !*update {
			t.Errorf("%s: the table of %s is not that of the code; make docs-tables writes it anew", path, name)
		}
		text = before + begin + want + end + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// documented are the tables, by who has the metrics. What both daemons have stands once.
func documented(t *testing.T) map[string]string {
	t.Helper()
	a, err := Agent()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Receiver()
	if err != nil {
		t.Fatal(err)
	}
	agents := map[string]bool{}
	for _, f := range a.Families() {
		agents[f.Name] = true
	}
	var both, ofAgent, ofReceiver []metrics.Family
	shared := map[string]bool{}
	for _, f := range r.Families() {
		if agents[f.Name] {
			both, shared[f.Name] = append(both, f), true
		} else {
			ofReceiver = append(ofReceiver, f)
		}
	}
	for _, f := range a.Families() {
		if !shared[f.Name] {
			ofAgent = append(ofAgent, f)
		}
	}
	return map[string]string{"both": Table(both), "agent": Table(ofAgent), "receiver": Table(ofReceiver)}
}

// TestNames holds names against the conventions that operators know: units in full, counters that say so.
func TestNames(t *testing.T) {
	for name, f := range families(t) {
		counter, total := f.Kind == metrics.KindCounter, strings.HasSuffix(name, "_total")
		switch {
		case counter != total:
			t.Errorf("%s is a %s: _total is for counters, and all of them have it", name, f.Kind)
		case f.Kind == metrics.KindHistogram && !strings.HasSuffix(name, "_seconds"):
			t.Errorf("%s: a histogram of what?", name)
		case strings.Contains(name, "timestamp") && !strings.HasSuffix(name, "_timestamp_seconds"):
			t.Errorf("%s: a time is seconds since 1970", name)
		case !strings.HasSuffix(f.Help, ".") || strings.Contains(f.Help, "|"):
			t.Errorf("%s: its meaning is a sentence, and stands in a table: %q", name, f.Help)
		}
	}
}
