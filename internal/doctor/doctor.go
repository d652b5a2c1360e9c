// Package doctor finds what is wrong with a host, a receiver or an operator's folder, and says what to do about it. Here are the
// checks that all of them share: certificates, the way to a receiver, clocks, room, units. What only one of them can know is
// added by its command (cmd/understudy-agent, cmd/understudy-receiver, cmd/understudy).
//
// A check tries for real where it can: it shakes hands, binds the port, writes a file. What could not be tried is Unknown, never OK.
package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Status is what came of a check.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warn    Status = "warn"    // it works, and will not for ever, or not as well as it could
	Fail    Status = "fail"    // it does not work
	Unknown Status = "unknown" // the check could not be made
)

// Finding is what a check found, each in one line. Fix is the way out, a command or a section of docs/OPERATING.md; only OK
// has none.
type Finding struct {
	Status Status `json:"status"`
	Text   string `json:"text"`
	Fix    string `json:"fix,omitempty"`
}

// Good is what needs nothing.
func Good(format string, args ...any) Finding {
	return Finding{Status: OK, Text: fmt.Sprintf(format, args...)}
}

// Doubtful is a warning with its way out.
func Doubtful(fix, format string, args ...any) Finding {
	return Finding{Status: Warn, Text: fmt.Sprintf(format, args...), Fix: fix}
}

// Bad is a failure with its way out.
func Bad(fix, format string, args ...any) Finding {
	return Finding{Status: Fail, Text: fmt.Sprintf(format, args...), Fix: fix}
}

// NotMade says why a check could not be made, and how it can.
func NotMade(fix, format string, args ...any) Finding {
	return Finding{Status: Unknown, Text: fmt.Sprintf(format, args...), Fix: fix}
}

// Check is one question with an answer.
type Check struct {
	ID  string // short, in a report's first column
	Run func(ctx context.Context) Finding
}

// Result is a check's finding under its name.
type Result struct {
	Check string `json:"check"`
	Finding
}

// Part are the results for one daemon, or for the operator.
type Part struct {
	Name    string   `json:"part"`
	Results []Result `json:"results"`
}

// patience is how long a check may take. A folder on a file system that hangs never answers.
const patience = 30 * time.Second

// Run makes the checks one after the other: later ones use what earlier ones have found.
func Run(ctx context.Context, name string, checks []Check) Part {
	return run(ctx, name, checks, patience)
}

func run(ctx context.Context, name string, checks []Check, patience time.Duration) Part {
	p := Part{Name: name, Results: []Result{}}
	for _, c := range checks {
		p.Results = append(p.Results, Result{Check: c.ID, Finding: oneLine(answer(ctx, c, patience))})
	}
	return p
}

// answer waits for a check no longer than patience. One that hangs in the kernel is left behind.
func answer(ctx context.Context, c Check, patience time.Duration) Finding {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found := make(chan Finding, 1)
	go func() { found <- c.Run(limited) }()
	late := time.NewTimer(patience + patience/10) // its own error first, if it heeds the context
	defer late.Stop()
	select {
	case f := <-found:
		return f
	case <-ctx.Done():
		return NotMade("run it again", "stopped")
	case <-late.C:
		return NotMade("look for a file system or device that hangs: dmesg, and cat /proc/*/stack of processes in state D", "no answer in %v", patience)
	}
}

func oneLine(f Finding) Finding {
	f.Text = strings.Join(strings.FieldsFunc(f.Text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	return f
}

// Count is how many results of the parts have the status.
func Count(parts []Part, s Status) (n int) {
	for _, p := range parts {
		for _, r := range p.Results {
			if r.Status == s {
				n++
			}
		}
	}
	return n
}

// Failed is the error of a report in which a check failed; nil if none did.
func Failed(parts []Part) error {
	switch n := Count(parts, Fail); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("1 check failed")
	default:
		return fmt.Errorf("%d checks failed", n)
	}
}

// Print writes the parts for people.
func Print(w io.Writer, parts []Part) {
	for _, p := range parts {
		fmt.Fprintln(w, p.Name)
		for _, r := range p.Results {
			fmt.Fprintf(w, "  %-7s  %-13s  %s\n", strings.ToUpper(string(r.Status)), r.Check, r.Text)
			if r.Status != OK {
				fmt.Fprintf(w, "  %-7s  %-13s  -> %s\n", "", "", r.Fix)
			}
		}
	}
	fmt.Fprintf(w, "%d ok, %d warnings, %d failed, %d not made\n", Count(parts, OK), Count(parts, Warn), Count(parts, Fail), Count(parts, Unknown))
}
