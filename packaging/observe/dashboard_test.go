package observe

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// dashboard is what the checks need of Grafana's model.
type dashboard struct {
	UID           string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ H, W, X, Y int }
		Targets []struct {
			RefID      string `json:"refId"`
			Expr       string
			Datasource struct{ UID string }
		}
	}
}

// TestDashboard: every panel has its own place and asks for what there is, in expressions that Prometheus reads, of the data source
// that is chosen at the top, for all variables that there are and no others.
func TestDashboard(t *testing.T) {
	raw, err := os.ReadFile("../grafana/understudy.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.SchemaVersion < 36 {
		t.Errorf("uid %q, schema version %d", d.UID, d.SchemaVersion)
	}
	known := families(t)
	variables := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Type == "query" {
			if err := checkExpr(known, v.Definition); err != nil {
				t.Errorf("variable %s: %v", v.Name, err)
			}
		}
	}
	var exprs []string
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: its id is another's", p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x > 23 {
					t.Fatalf("%s lies on %s, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if err := checkExpr(known, q.Expr); err != nil {
				t.Errorf("%s: %v", p.Title, err)
			}
			if q.Datasource.UID != "${datasource}" || refs[q.RefID] {
				t.Errorf("%s: data source %q, query %q", p.Title, q.Datasource.UID, q.RefID)
			}
			refs[q.RefID] = true
			for _, v := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !variables[v[1]] {
					t.Errorf("%s: there is no variable $%s", p.Title, v[1])
				}
			}
			exprs = append(exprs, strings.ReplaceAll(q.Expr, "$__rate_interval", "5m"))
		}
	}
	if len(exprs) < 30 {
		t.Errorf("%d expressions: that is not the whole dashboard", len(exprs))
	}
	if err := checkSyntax(t, exprs); err != nil {
		t.Error(err)
	}
}
