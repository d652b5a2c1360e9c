package ebpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
)

// realtimeFile says 1 on a kernel with real-time preemption.
const realtimeFile = "/sys/kernel/realtime"

// Probe says in one sentence why disks can't be tracked here, nil if they can. It tries for real: it makes a map, loads a
// program and attaches it.
func Probe() error {
	if err := refuseRealtime(realtimeFile); err != nil {
		return err
	}
	f, err := readFields()
	if err != nil {
		return err
	}
	l := newLayout(64, 64)
	m, err := newMap(l)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("tracking needs the capabilities CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN: run as root: %w", capture.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("this kernel has no arrays that can be mapped (5.5 or later has): %w: %w", err, capture.ErrUnsupported)
	}
	defer m.Close()
	nothing := &ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "block_rq_complete", License: license,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
	if err := load(nothing); err != nil {
		return fmt.Errorf("this kernel does not let programs watch its block tracepoints (5.8 or later does, unless it is locked down): %w: %w", err, capture.ErrUnsupported)
	}
	// On no disk: there is none with these numbers.
	probe := target{fields: f, layout: l, table: table{Queues: 1, Depth: 64}, sectors: 1, mapFD: m.FD(), major: -1, minor: -1}
	if err := load(probe.completion()); err != nil {
		return fmt.Errorf("this kernel's programs can't set bits atomically (5.12 or later can): %w: %w", err, capture.ErrUnsupported)
	}
	return nil
}

// load loads and attaches a program, and takes it away again.
func load(spec *ebpf.ProgramSpec) error {
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		return err
	}
	return l.Close()
}

// refuseRealtime: where a task can preempt a tracing program, three copies are not enough.
func refuseRealtime(file string) error {
	if text(file) == "1" {
		return fmt.Errorf("this kernel has real-time preemption, under which a completion could be missed: take one without (PREEMPT_RT off): %w", capture.ErrUnsupported)
	}
	return nil
}
