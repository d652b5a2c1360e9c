// Package observe knows which metrics there are, for the tests that hold docs/METRICS.md, the alert rules, the dashboard and what real
// daemons show against the code.
package observe

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/receiver"
)

// Agent is a registry with all metrics of understudy-agent. It is not made for a scrape: there is nothing behind it.
func Agent() (*metrics.Registry, error) {
	a, err := agent.New(agent.Config{Disks: []string{"/dev/null"}}, agent.Parts{})
	if err != nil {
		return nil, err
	}
	r := new(metrics.Registry)
	return r, errors.Join(r.Register(metrics.Process("", "", time.Time{})), a.Register(r), new(link.Keeper).Register(r))
}

// Receiver is the same of understudy-receiver.
func Receiver() (*metrics.Registry, error) {
	r := new(metrics.Registry)
	return r, errors.Join(r.Register(metrics.Process("", "", time.Time{})),
		new(receiver.Receiver).Register(r), new(link.Listener).Register(r), new(link.Keeper).Register(r))
}

// Table shows metrics as docs/METRICS.md does. Units are in the names: seconds, bytes; a count has none.
func Table(families []metrics.Family) string {
	var b strings.Builder
	b.WriteString("| name | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		labels := ""
		if len(f.Labels) > 0 {
			labels = "`" + strings.Join(f.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, f.Kind, labels, f.Help)
	}
	return b.String()
}
