package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/bench/testbed"
)

// Rig is one site with a receiver, and one host with an agent.
type Rig struct {
	Bed      *testbed.Bed
	Bin      string // folder of the commands
	Carrier  string // quic or tcp
	Disk     string // device that is protected
	Interval time.Duration
	Extra    []string // further flags of the agent

	Receiver *testbed.Process
	Agent    *testbed.Process

	addr string
}

// Prepare looks for the commands, makes the certificates and chooses the receiver's address. Call it once, before anything
// is started.
func (r *Rig) Prepare(ctx context.Context) error {
	for _, name := range []string{"understudy", "understudy-agent", "understudy-receiver"} {
		if _, err := os.Stat(filepath.Join(r.Bin, name)); err != nil {
			return fmt.Errorf("%s is not built: run make build", name)
		}
	}
	if err := r.Bed.KeepBPF(); err != nil {
		return err
	}
	if _, err := r.understudy(ctx, "pki", "init", "--dir", r.Bed.Path("ca"), "--site", "demo"); err != nil {
		return err
	}
	for name, role := range map[string]string{"host": "source", "site": "target", "operator": "operator"} {
		out := r.Bed.Path("pki", name)
		if err := os.MkdirAll(out, 0o700); err != nil {
			return err
		}
		if _, err := r.understudy(ctx, "pki", "issue", "--dir", r.Bed.Path("ca"), "--name", name, "--role", role, "--out", out); err != nil {
			return err
		}
	}
	addr, err := freeAddr()
	r.addr = addr
	return err
}

// freeAddr is a loopback address whose port is free for TCP and for UDP.
func freeAddr() (string, error) {
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", fmt.Errorf("find a free port: %w", err)
		}
		addr := l.Addr().String()
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			u.Close()
			return addr, nil
		}
	}
	return "", errors.New("find a free port: none is free for TCP and UDP alike")
}

// StartReceiver starts the receiver on its folder and waits until it listens.
func (r *Rig) StartReceiver() error {
	p, err := r.Bed.Start("receiver", nil, filepath.Join(r.Bin, "understudy-receiver"), "run",
		"--dir", r.Bed.Path("receiver"), "--listen", r.addr, "--pki", r.Bed.Path("pki", "site"), "--metrics", "off")
	if err != nil {
		return err
	}
	r.Receiver = p
	return p.WaitLog("msg=listening", 60*time.Second)
}

// StartAgent starts the agent. It does not wait for the link. The tracking that outlives an agent is ended with the bed.
func (r *Rig) StartAgent() error {
	if r.Agent == nil {
		r.Bed.Defer("end tracking", func() error { return r.forget(context.Background()) })
		if err := r.Bed.OnDeath(r.forgets()...); err != nil {
			return err
		}
	}
	argv := append([]string{
		filepath.Join(r.Bin, "understudy-agent"), "run", "--disk", r.Disk, "--receiver", r.addr,
		"--interval", r.Interval.String(), "--pki", r.Bed.Path("pki", "host"), "--state-dir", r.Bed.Path("agent"),
		"--control", r.socket(), "--carrier", r.Carrier, "--metrics", "off",
	}, r.Extra...)
	p, err := r.Bed.Start("agent", nil, argv...)
	if err == nil {
		r.Agent = p
	}
	return err
}

// Reset ends both daemons and takes away all that they kept: the next agent begins with a first sync.
func (r *Rig) Reset(ctx context.Context) error {
	r.Agent.KillGroup()
	r.Receiver.KillGroup()
	return errors.Join(r.forget(ctx), os.RemoveAll(r.Bed.Path("agent")), os.RemoveAll(r.Bed.Path("receiver")))
}

func (r *Rig) forget(ctx context.Context) error {
	_, err := testbed.Output(ctx, r.forgets()...)
	return err
}

// forgets is the command that ends tracking.
func (r *Rig) forgets() []string {
	return []string{filepath.Join(r.Bin, "understudy-agent"), "forget", "--state-dir", r.Bed.Path("agent")}
}

func (r *Rig) socket() string { return r.Bed.Path("agent.sock") }

// Point is a recovery point as understudy points prints it.
type Point struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Class   string    `json:"class"`
	Proven  bool      `json:"proven"`
	Payload int64     `json:"payload_bytes"`
	Covered int64     `json:"covered_bytes"`

	Labels map[string]string `json:"labels"`
}

// DiskStatus is what the agent says about the disk.
type DiskStatus struct {
	ID        string `json:"id"`
	Device    string `json:"device"`
	State     string `json:"state"`
	Error     string `json:"error"`
	LastPoint *struct {
		Point
		Changed int64         `json:"changed_bytes"`
		Sent    int64         `json:"sent_bytes"`
		Frozen  time.Duration `json:"frozen_ns"`
		Acked   time.Time     `json:"acked"`
	} `json:"last_point"`
	Lag     float64 `json:"lag_seconds"`
	Pending int64   `json:"pending_bytes"`
	Total   int64   `json:"total_bytes"`
	Done    int64   `json:"done_bytes"`
	Changed int64   `json:"changed_bytes"`
	Sent    int64   `json:"sent_bytes"`
}

// Disks asks the agent about all its disks.
func (r *Rig) Disks(ctx context.Context) ([]DiskStatus, error) {
	var report struct {
		Agent struct {
			Disks []DiskStatus `json:"disks"`
		} `json:"agent"`
	}
	err := r.ask(ctx, &report, "status", "--agent", r.socket())
	return report.Agent.Disks, err
}

// Status asks the agent about its disk.
func (r *Rig) Status(ctx context.Context) (DiskStatus, error) {
	disks, err := r.Disks(ctx)
	if err != nil {
		return DiskStatus{}, err
	}
	if len(disks) != 1 {
		return DiskStatus{}, fmt.Errorf("status names %d disks, not 1", len(disks))
	}
	return disks[0], nil
}

// WaitPoint waits until the agent has made a point that is newer than after, and returns the disk's status then.
func (r *Rig) WaitPoint(ctx context.Context, after time.Time, limit time.Duration) (DiskStatus, error) {
	deadline := time.Now().Add(limit)
	var last DiskStatus
	var err error
	for time.Now().Before(deadline) {
		if last, err = r.Status(ctx); err == nil && last.LastPoint != nil && last.LastPoint.Time.After(after) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-r.Agent.Done():
			return last, fmt.Errorf("agent ended: %w\n%s", r.Agent.Err(), r.Agent.Log())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return last, fmt.Errorf("no recovery point within %v (state %q, %s, %w)\nagent:\n%s", limit, last.State, last.Error, err, r.Agent.Log())
}

// WaitProven is WaitPoint for a point that is proven: a comparison may have to end before.
func (r *Rig) WaitProven(ctx context.Context, after time.Time, limit time.Duration) (DiskStatus, error) {
	deadline := time.Now().Add(limit)
	for {
		status, err := r.WaitPoint(ctx, after, time.Until(deadline))
		if err != nil || status.LastPoint.Proven {
			return status, err
		}
		after = status.LastPoint.Time
	}
}

// NewestProven is the newest point that is proven and consistent, and how many points are newer.
func (r *Rig) NewestProven(ctx context.Context, disk string) (p Point, newer int, err error) {
	points, err := r.Points(ctx, disk)
	for _, p := range slices.Backward(points) {
		if p.Proven && (p.Class == "crash" || p.Class == "application") {
			return p, newer, err
		}
		newer++
	}
	return p, newer, errors.Join(err, fmt.Errorf("none of %d points is proven", len(points)))
}

// Points asks the receiver for the disk's points, oldest first.
func (r *Rig) Points(ctx context.Context, disk string) ([]Point, error) {
	var points []Point
	err := r.ask(ctx, &points, append([]string{"points", disk}, r.remote()...)...)
	return points, err
}

// Restored is what understudy restore reports.
type Restored struct {
	Point
	Size    int64   `json:"size_bytes"`
	Data    int64   `json:"data_bytes"`
	Seconds float64 `json:"seconds"`
}

// Restore restores a point (latest, #412, a time) into a new file.
func (r *Rig) Restore(ctx context.Context, disk, point, file string) (Restored, error) {
	var done Restored
	err := r.ask(ctx, &done, append([]string{"restore", disk + "@" + point, file}, r.remote()...)...)
	return done, err
}

// Verify compares the whole replica with the live disk. A difference is an error.
func (r *Rig) Verify(ctx context.Context, disk string) (size, changed int64, err error) {
	var report struct {
		Size    int64 `json:"size_bytes"`
		Changed int64 `json:"changed_bytes"`
	}
	err = r.ask(ctx, &report, "verify", disk, "--agent", r.socket())
	return report.Size, report.Changed, err
}

func (r *Rig) remote() []string {
	return []string{"--receiver", r.addr, "--pki", r.Bed.Path("pki", "operator"), "--carrier", r.Carrier}
}

func (r *Rig) ask(ctx context.Context, into any, args ...string) error {
	out, err := r.understudy(ctx, append([]string{"--json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("read what understudy %s printed: %w", args[0], err)
	}
	return nil
}

func (r *Rig) understudy(ctx context.Context, args ...string) (string, error) {
	return testbed.Output(ctx, append([]string{filepath.Join(r.Bin, "understudy")}, args...)...)
}

// ExitStatus is the exit status in an error of a command, or -1.
func ExitStatus(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return -1
}

// DefaultBin is where make build puts the commands: bin in the working directory.
func DefaultBin() string {
	abs, err := filepath.Abs("bin")
	if err != nil {
		return "bin"
	}
	return abs
}
