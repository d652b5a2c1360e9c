package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what the figures were measured on.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func thisMachine() machine {
	m := machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	m.CPU = procField("/proc/cpuinfo", "model name", m.CPU)
	kib, _, _ := strings.Cut(procField("/proc/meminfo", "MemTotal", "0"), " ")
	if n, err := strconv.ParseInt(kib, 10, 64); err == nil {
		m.Memory = n << 10
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	return m
}

// procField is the first value of that name in a file of "name: value" lines, or otherwise.
func procField(path, name, otherwise string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return otherwise
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return otherwise
}

func (r *report) print(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "\n%s, %d cores, %.0f GB of memory, Linux %s, %s\n", m.CPU, m.Cores, gb(m.Memory), m.Kernel, m.Go)
	if r.Tracking != nil {
		fmt.Fprintf(w, "\nWhat tracking leaves of the rate of 4 KiB random writes (fio, direct, loop disk), median of %d rounds and quartiles\n",
			len(r.Tracking[0].Tracked))
		for _, row := range r.Tracking {
			mode := "marked at completion"
			if row.Flights == "on" {
				mode = "and kept in a table while in flight"
			}
			fmt.Fprintf(w, "  depth %2d  %-21s %.3f  (%.3f to %.3f)  of %6.0f IOPS   goal %.2f: %s\n", row.Depth, mode, row.Ratio.Median,
				row.Ratio.Low, row.Ratio.High, spreadOf(row.Untracked).Median, row.Goal, verdict(row.Ratio.Median, row.Goal))
		}
	}
	if r.Sync != nil {
		r.Sync.print(w)
	}
	if r.Views != nil {
		r.Views.print(w)
	}
	if r.Points != nil {
		r.Points.print(w)
	}
	fmt.Fprintln(w)
}

func (t *firstSyncTable) print(w io.Writer) {
	fmt.Fprintf(w, "\nFirst sync of %.2f GB of files in ext4 over loopback, and the same bytes through bare TLS 1.3; medians of %d rounds\n",
		gb(t.Data), len(t.Rows[0].Rounds))
	fmt.Fprintf(w, "  %-9s %6s  %12s %12s  %14s  %11s  %8s  %9s  %9s\n", "", "GB/s", "source CPU-s", "target CPU-s", "GB/s per core", "of bare TLS", "sent GB", "source", "target")
	fmt.Fprintf(w, "  %-9s %6s  %12s %12s  %14s  %11s  %8s  %9s  %9s\n", "", "", "per GB", "per GB", "of the source", "", "", "peak MiB", "peak MiB")
	for _, r := range t.Rows {
		var sent, source, target int64
		for _, c := range r.Rounds {
			sent, source, target = max(sent, c.Sent), max(source, c.SourceRSS), max(target, c.TargetRSS)
		}
		memory := func(n int64) string {
			if n == 0 {
				return "-"
			}
			return strconv.FormatInt(n>>20, 10)
		}
		fmt.Fprintf(w, "  %-9s %6.2f  %12.2f %12.2f  %14.2f  %11.2f  %8.2f  %9s  %9s\n", r.Name, r.Speed.Median/1e9, r.SourceCPU.Median,
			r.TargetCPU.Median, r.PerCore.Median/1e9, r.Share.Median, gb(sent), memory(source), memory(target))
	}
	tcp := t.Rows[1].PerCore.Median
	fmt.Fprintf(w, "  goal for tcp: %.2f GB/s per core of the source (%.1f, or %.1f of bare TLS if that is less): %s\n",
		t.goal()/1e9, syncGoal/1e9, syncGoalShare, verdict(tcp, t.goal()))
}

// verdict says whether a goal is reached, or how much of it is.
func verdict(got, goal float64) string {
	if got >= goal {
		return "reached"
	}
	return fmt.Sprintf("not reached, %.3f of it", got/goal)
}
