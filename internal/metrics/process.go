package metrics

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what every daemon says of itself, under the names that Prometheus' own libraries use. command and version are for
// the build information; started is when the process did.
func Process(command, version string, started time.Time) Group[process] {
	return Group[process]{
		Items: func() []Item[process] { return One(lookAtProcess(command, version, started)) },
		Rows: []Row[process]{
			Gauge("understudy_build_info", "1; the labels say which daemon this is, of which version, and by which Go it was built.",
				func(p process, out *Samples) { out.Put(1, p.command, p.version, runtime.Version()) }, "command", "version", "go"),
			Gauge("process_start_time_seconds", "When the daemon started, in seconds since 1970.",
				func(p process, out *Samples) { out.PutTime(p.started) }),
			Counter("process_cpu_seconds_total", "Processor time that the daemon took, in user and kernel mode together.",
				Value(func(p process) float64 { return p.cpu })),
			Gauge("process_resident_memory_bytes", "Memory that the daemon holds, its children not counted.",
				Value(func(p process) int64 { return p.resident })),
			Gauge("process_open_fds", "Files that the daemon has open.", Value(func(p process) int { return p.files })),
			Gauge("go_goroutines", "Goroutines of the daemon.", Value(func(process) int { return runtime.NumGoroutine() })),
		},
	}
}

type process struct {
	command, version string
	started          time.Time
	cpu              float64
	resident         int64
	files            int
}

// lookAtProcess reads what of proc(5) a daemon may see of itself under any unit. What can't be read is 0.
func lookAtProcess(command, version string, started time.Time) process {
	p := process{command: command, version: version, started: started}
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) == nil {
		p.cpu = float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
	}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			pages, _ := strconv.ParseInt(fields[1], 10, 64)
			p.resident = pages * int64(os.Getpagesize())
		}
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.files = len(open) - 1 // less the one that reads the folder
	}
	return p
}
