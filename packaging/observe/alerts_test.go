package observe

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/metrics"
)

// standing are the values of labels that a test does not choose.
var standing = map[string]string{"instance": "web1:14430", "disk": "d1", "device": "/dev/sda", "host": "web1", "application": "db"}

// jobOf is which daemon shows a metric: the agent, but for what only the receiver has.
func jobOf(series string) string {
	if strings.HasPrefix(series, "understudy_receiver_") || strings.Contains(series, `job="understudy-receiver"`) {
		return "understudy-receiver"
	}
	return "understudy-agent"
}

// fullSeries completes the labels of a series as a real daemon would show them: what the test says, and the rest from standing.
func fullSeries(t *testing.T, known map[string]metrics.Family, series string) string {
	t.Helper()
	name, said, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	labels := map[string]string{}
	for _, l := range regexp.MustCompile(`([a-z_]+)="([^"]*)"`).FindAllStringSubmatch(said, -1) {
		labels[l[1]] = l[2]
	}
	f, ok := familyOf(known, name)
	if !ok && name != "up" {
		t.Fatalf("there is no metric %s", name)
	}
	want := append([]string{"instance", "job"}, f.Labels...)
	if strings.HasSuffix(name, "_bucket") {
		want = append(want, "le")
	}
	labels["job"] = jobOf(series)
	for _, l := range want {
		if labels[l] == "" {
			labels[l] = standing[l]
		}
		if labels[l] == "" {
			t.Fatalf("%s needs a value of %s", series, l)
		}
	}
	if len(labels) != len(want) {
		t.Fatalf("%s has the labels %v, no others", series, want)
	}
	var parts []string
	for _, l := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, l+`="`+labels[l]+`"`)
	}
	return name + "{" + strings.Join(parts, ",") + "}"
}

// ruleTest is one test of promtool test rules.
type ruleTest struct {
	Interval string       `json:"interval"`
	Series   []ruleSeries `json:"input_series"`
	Alerts   []alertTest  `json:"alert_rule_test"`
}

type ruleSeries struct {
	Series string `json:"series"`
	Values string `json:"values"`
}

type alertTest struct {
	At       string  `json:"eval_time"`
	Alert    string  `json:"alertname"`
	Expected []alert `json:"exp_alerts"`
}

type alert struct {
	Labels      map[string]string `json:"exp_labels"`
	Annotations map[string]string `json:"exp_annotations"`
}

// test makes promtool's test of a case: where it fires, it must not have fired before the rule's time.
func (c alertCase) test(t *testing.T, known map[string]metrics.Family, r rule) ruleTest {
	t.Helper()
	test := ruleTest{Interval: "1m", Alerts: []alertTest{{At: c.at, Alert: r.Alert}}}
	job := ""
	for series, values := range c.series {
		test.Series = append(test.Series, ruleSeries{fullSeries(t, known, series), values})
		job = jobOf(series)
	}
	if c.says == "" {
		return test
	}
	if pending := r.pending(t); pending > 0 {
		test.Alerts = append(test.Alerts, alertTest{At: (pending - time.Minute).String(), Alert: r.Alert})
	}
	want := alert{Labels: map[string]string{"job": job, "instance": standing["instance"]}, Annotations: map[string]string{}}
	for _, l := range strings.Fields(c.labels) {
		name, value, _ := strings.Cut(l, "=")
		want.Labels[name] = value
		if value == "" {
			want.Labels[name] = standing[name]
		}
	}
	maps.Copy(want.Labels, r.Labels)
	for name, text := range r.Annotations {
		for label, value := range want.Labels {
			text = strings.ReplaceAll(text, "{{ $labels."+label+" }}", value)
		}
		want.Annotations[name] = text
	}
	want.Annotations["summary"] = standing["instance"] + ": " + c.says
	test.Alerts[0].Expected = []alert{want}
	return test
}

// failing runs all cases against rules, which may be broken, and tells whose cases fail. The cases are those of the rules as they
// should be.
func failing(t *testing.T, known map[string]metrics.Family, rules, right ruleFile) map[string]bool {
	t.Helper()
	files, args := map[string]any{}, []string{"test", "rules"}
	for i, r := range right.all() { // a file for each: promtool evaluates all rules of a file for each of its tests
		var tests []ruleTest
		for _, c := range alertCases[r.Alert] {
			tests = append(tests, c.test(t, known, r))
		}
		name := r.Alert + ".yml"
		files[name] = ruleFile{Groups: []ruleGroup{{Name: r.Alert, Rules: rules.all()[i : i+1]}}}
		files["test-"+name] = map[string]any{"rule_files": []string{name}, "evaluation_interval": "1m", "tests": tests}
		args = append(args, "test-"+name)
	}
	out, err := promtool(t, files, args...)
	failed := map[string]bool{}
	for _, m := range regexp.MustCompile(`alertname: ?(\w+)`).FindAllSubmatch(out, -1) {
		failed[string(m[1])] = true
	}
	if (err != nil) != (len(failed) > 0) {
		t.Fatalf("%v: %s", err, out)
	}
	if t.Name() == "TestAlerts" && err != nil {
		t.Errorf("%s", out)
	}
	return failed
}

// TestAlerts: each rule fires when it should, with the labels and words that it should, not before its time, and not otherwise.
func TestAlerts(t *testing.T) {
	known, rules := families(t), loadRules(t)
	if len(rules.all()) != len(alertCases) {
		t.Errorf("%d rules, and cases of %d", len(rules.all()), len(alertCases))
	}
	for alert, cases := range alertCases {
		fires := func(c alertCase) bool { return c.says != "" }
		if !slices.ContainsFunc(cases, fires) || !slices.ContainsFunc(cases, func(c alertCase) bool { return !fires(c) }) {
			t.Errorf("%s: it takes a case in which it fires, and one in which it does not", alert)
		}
	}
	for alert := range failing(t, known, rules, rules) {
		t.Errorf("%s does not do what its cases say", alert)
	}
}

// TestBrokenAlerts: whichever rule is broken, its cases tell.
func TestBrokenAlerts(t *testing.T) {
	known, rules := families(t), loadRules(t)
	for what, breakIt := range map[string]func(*rule){
		"never fires":              func(r *rule) { r.Expr = "(" + r.Expr + ") and vector(1) == 2" },
		"always fires":             func(r *rule) { r.Expr = "(" + r.Expr + `) or label_replace(vector(1), "more", "1", "", "")` },
		"fires at once":            func(r *rule) { r.For = "" },
		"fires days late":          func(r *rule) { r.For = "100h" },
		"fires the other way":      func(r *rule) { r.Expr = turned(r.Expr) },
		"says something else":      func(r *rule) { r.Annotations = map[string]string{"summary": "something is wrong"} },
		"has a label that differs": func(r *rule) { r.Labels = map[string]string{"severity": "page"} },
	} {
		t.Run(what, func(t *testing.T) {
			failed := failing(t, known, rules.each(breakIt), rules)
			for _, r := range rules.all() {
				if same := what == "fires at once" && r.For == ""; failed[r.Alert] == same {
					t.Errorf("%s: a rule that %s passes its cases", r.Alert, what)
				}
			}
		})
	}
}

// turned is an expression whose first comparison is the other way round.
func turned(expr string) string {
	at := regexp.MustCompile(` (>|<|==) `).FindStringIndex(expr)
	other := map[string]string{">": "<=", "<": ">=", "==": "!="}[expr[at[0]+1:at[1]-1]]
	return expr[:at[0]] + " " + other + " " + expr[at[1]:]
}

// each is a copy in which every rule was changed.
func (f ruleFile) each(change func(*rule)) ruleFile {
	var changed ruleFile
	for _, g := range f.Groups {
		g.Rules = slices.Clone(g.Rules)
		for i := range g.Rules {
			change(&g.Rules[i])
		}
		changed.Groups = append(changed.Groups, g)
	}
	return changed
}

// TestRulesAreComplete: each rule asks for what there is, says how grave it is, what it is about and what to do, and where to
// read on.
func TestRulesAreComplete(t *testing.T) {
	known := families(t)
	manual, err := os.ReadFile("../../docs/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(manual), -1) {
		headings[anchor(h[1])] = true
	}
	for _, r := range loadRules(t).all() {
		if err := checkExpr(known, r.Expr); err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" || len(r.Labels) != 1 {
			t.Errorf("%s: labels %v", r.Alert, r.Labels)
		}
		if a := r.Annotations; len(a) != 3 || !strings.HasPrefix(a["summary"], "{{ $labels.instance }}: ") || len(a["description"]) < 20 {
			t.Errorf("%s: annotations %v", r.Alert, a)
		}
		page, section, _ := strings.Cut(r.Annotations["runbook_url"], "#")
		if page != "https://github.com/understudy-dr/understudy/blob/main/docs/OPERATING.md" || !headings[section] {
			t.Errorf("%s: there is nothing to read at %s", r.Alert, r.Annotations["runbook_url"])
		}
		if !strings.Contains(string(manual), "`"+r.Alert+"`") {
			t.Errorf("%s is not in docs/OPERATING.md", r.Alert)
		}
	}
}

// anchor is what a heading is linked by.
func anchor(heading string) string {
	kept := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(kept, " ", "-")
}
