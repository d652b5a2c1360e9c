package observe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/understudy-dr/understudy/internal/metrics"
)

// ruleFile is a file of alert rules.
type ruleFile struct {
	Groups []ruleGroup `yaml:"groups" json:"groups"`
}

type ruleGroup struct {
	Name  string `yaml:"name" json:"name"`
	Rules []rule `yaml:"rules" json:"rules"`
}

type rule struct {
	Alert       string            `yaml:"alert" json:"alert,omitempty"`
	Record      string            `yaml:"record" json:"record,omitempty"`
	Expr        string            `yaml:"expr" json:"expr"`
	For         string            `yaml:"for" json:"for,omitempty"`
	Labels      map[string]string `yaml:"labels" json:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations" json:"annotations,omitempty"`
}

func loadRules(t *testing.T) (file ruleFile) {
	t.Helper()
	raw, err := os.ReadFile("../prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// all are the rules of all groups.
func (f ruleFile) all() (list []rule) {
	for _, g := range f.Groups {
		list = append(list, g.Rules...)
	}
	return list
}

// pending is how long a rule's expression must be true before it fires.
func (r rule) pending(t *testing.T) time.Duration {
	t.Helper()
	if r.For == "" {
		return 0
	}
	d, err := time.ParseDuration(r.For)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// promtool runs Prometheus' own tool on files, in a folder of their own. JSON is YAML.
func promtool(t *testing.T, files map[string]any, args ...string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		raw, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("promtool", args...)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

// families are all metrics of both daemons, by name.
func families(t *testing.T) map[string]metrics.Family {
	t.Helper()
	known := map[string]metrics.Family{}
	for _, make := range []func() (*metrics.Registry, error){Agent, Receiver} {
		r, err := make()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Families() {
			known[f.Name] = f
		}
	}
	return known
}

var (
	inQuotes   = regexp.MustCompile(`"[^"]*"`)
	identifier = regexp.MustCompile(`\b(understudy|process|go)_[a-z0-9_]+\b`)
	selector   = regexp.MustCompile(`\b((?:understudy|process|go)_[a-z0-9_]+)\{([^}]*)\}`)
	labelMatch = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
)

// suffixes are what samples of a histogram have after its name.
var suffixes = []string{"_bucket", "_sum", "_count"}

// familyOf is the metric that a name in an expression is of.
func familyOf(known map[string]metrics.Family, name string) (metrics.Family, bool) {
	if f, ok := known[name]; ok && f.Kind != metrics.KindHistogram {
		return f, true
	}
	for _, suffix := range suffixes {
		if f, ok := known[strings.TrimSuffix(name, suffix)]; ok && strings.HasSuffix(name, suffix) && f.Kind == metrics.KindHistogram {
			return f, true
		}
	}
	return metrics.Family{}, false
}

// checkExpr holds that an expression asks for metrics and labels that there are, and that it takes rates of counters alone.
func checkExpr(known map[string]metrics.Family, expr string) error {
	for _, name := range identifier.FindAllString(inQuotes.ReplaceAllString(expr, `""`), -1) {
		if _, ok := familyOf(known, name); !ok {
			return fmt.Errorf("there is no metric %s, or it is a histogram without %v", name, suffixes)
		}
	}
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		f, _ := familyOf(known, m[1])
		for _, l := range labelMatch.FindAllStringSubmatch(inQuotes.ReplaceAllString(m[2], `""`), -1) {
			if !slices.Contains(append([]string{"job", "instance", "le"}, f.Labels...), l[1]) {
				return fmt.Errorf("%s has no label %s, it has %v", m[1], l[1], f.Labels)
			}
		}
	}
	for _, m := range regexp.MustCompile(`\b(rate|increase)\(\s*([a-z0-9_]+)`).FindAllStringSubmatch(expr, -1) {
		if f, _ := familyOf(known, m[2]); f.Kind == metrics.KindGauge {
			return fmt.Errorf("%s of %s, which is a gauge", m[1], m[2])
		}
	}
	return nil
}

// checkSyntax has promtool read expressions.
func checkSyntax(t *testing.T, exprs []string) error {
	t.Helper()
	group := ruleGroup{Name: "exprs"}
	for i, e := range exprs {
		group.Rules = append(group.Rules, rule{Record: fmt.Sprintf("expr:%d", i), Expr: e})
	}
	out, err := promtool(t, map[string]any{"exprs.yml": ruleFile{Groups: []ruleGroup{group}}}, "check", "rules", "exprs.yml")
	if err != nil || bytes.Contains(out, []byte("duplicate")) {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestCheckExprFinds holds that the checks find what they are for.
func TestCheckExprFinds(t *testing.T) {
	known := families(t)
	for expr, good := range map[string]bool{
		`understudy_agent_rpo_seconds > 60`:                                    true,
		`understudy_agent_disk_state{state="fenced"} == 1`:                     true,
		`rate(understudy_agent_freeze_seconds_bucket[5m])`:                     true,
		`label_replace(go_goroutines, "a", "understudy_no_such", "b", "(.*)")`: true,
		`understudy_agent_rpo_second > 60`:                                     false,
		`understudy_agent_freeze_seconds`:                                      false,
		`understudy_agent_rpo_seconds_sum`:                                     false,
		`understudy_agent_disk_state{status="fenced"} == 1`:                    false,
		`rate(understudy_agent_dirty_bytes[5m])`:                               false,
	} {
		if err := checkExpr(known, expr); (err == nil) != good {
			t.Errorf("%s: %v", expr, err)
		}
	}
	if checkSyntax(t, []string{"up == 1", "sum by (instance) (up"}) == nil {
		t.Error("an expression without its end was taken")
	}
}
