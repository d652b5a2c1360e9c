package main

import (
	"fmt"
	"io"
)

func (t *pointsTable) print(w io.Writer) {
	points, unproven, sent, changed, written, rss := 0, 0, int64(0), int64(0), int64(0), int64(0)
	var agent, target, bare, protected, bare999, protected999 []float64
	for _, r := range t.Turns {
		points, unproven = points+r.Points, unproven+r.Unproven
		sent, changed, written, rss = sent+r.Sent, changed+r.Changed, written+r.Written, max(rss, r.AgentRSS)
		agent, target = append(agent, r.AgentCPU), append(target, r.TargetCPU)
		bare, protected = append(bare, r.Bare.P99*1e3), append(protected, r.Protected.P99*1e3)
		bare999, protected999 = append(bare999, r.Bare.P999*1e3), append(protected999, r.Protected.P999*1e3)
	}
	fmt.Fprintf(w, "\nPoints every %.0f s of a disk under %.0f MB/s of 4 KiB random writes and SQLite (ext4, loop disk, tcp); %d rounds of %.0f s without and with\n",
		t.Interval, pointsRate/1e6, len(t.Turns), t.Turn)
	fmt.Fprintf(w, "  frozen for        p50 %7.1f ms  p99 %7.1f ms  (%d points)   goal p99 %.0f ms: %s\n", t.Freeze.Median*1e3, t.Freeze.P99*1e3, points,
		freezeGoal.Seconds()*1e3, within(t.Freeze.P99, freezeGoal.Seconds()))
	fmt.Fprintf(w, "    of that         p50 %7.1f ms  p99 %7.1f ms  until the kernel held the writes; p50 %.1f ms, p99 %.1f ms reading what was left\n",
		t.Freezing.Median*1e3, t.Freezing.P99*1e3, t.Reading.Median*1e3, t.Reading.P99*1e3)
	fmt.Fprintf(w, "  newest point's age p50 %6.2f s   p99 %7.2f s                 goal p99 %.0f s: %s\n", t.Age.Median, t.Age.P99, ageGoal.Seconds(),
		within(t.Age.P99, ageGoal.Seconds()))
	fmt.Fprintf(w, "  write latency     p99 %.2f ms bare, %.2f ms protected (paired ratio %.2f, %.2f to %.2f); p99.9 %.2f and %.2f ms\n",
		spreadOf(bare).Median, spreadOf(protected).Median, t.Ratio.Median, t.Ratio.Low, t.Ratio.High, spreadOf(bare999).Median, spreadOf(protected999).Median)
	fmt.Fprintf(w, "  sent              %.3f bytes a byte that the points cover, %.3f a byte written\n", float64(sent)/float64(changed), float64(sent)/float64(written))
	fmt.Fprintf(w, "  agent             %.1f %% of a core, %d MiB at most; receiver %.1f %%\n", spreadOf(agent).Median*100, rss>>20, spreadOf(target).Median*100)
	if unproven > 0 {
		fmt.Fprintf(w, "  %d of %d points were unproven: the audit saw tracking fall short, and the disk was compared meanwhile, which sends more\n", unproven, points)
	}
	s := t.Scan
	fmt.Fprintf(w, "  scan (verify)     %.2f GB at %.2f GB/s; %.2f GB/s per core of the agent, %.2f per core of the receiver\n",
		gb(s.Bytes), gb(s.Bytes)/s.Seconds, gb(s.Bytes)/s.SourceCPU, gb(s.Bytes)/s.TargetCPU)
}

// within says whether a goal that must not be exceeded is kept.
func within(got, goal float64) string {
	if got <= goal {
		return "reached"
	}
	return fmt.Sprintf("not reached, %.2f times as much", got/goal)
}
