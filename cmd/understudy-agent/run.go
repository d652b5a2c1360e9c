package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/capture/ebpf"
	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
)

// defaultMetrics is where the agent shows its metrics: to this host alone.
const defaultMetrics = "127.0.0.1:14430"

// defaultSocket is where the understudy command looks for the agent.
const defaultSocket = "/run/understudy/agent.sock"

// config is the agent's configuration file; every key has a flag of the same meaning, which wins.
type config struct {
	agent.Config
	Receiver string           `toml:"receiver" zero:"none: required"` // HOST:PORT of the receiver
	PKI      string           `toml:"pki"`                            // folder with ca.crt, host.crt and host.key; default /etc/understudy/pki
	Carrier  link.Carrier     `toml:"carrier"`                        // quic or tcp; default quic
	Control  string           `toml:"control"`                        // control socket; default /run/understudy/agent.sock
	Metrics  string           `toml:"metrics"`                        // HOST:PORT where Prometheus finds the metrics, or off; default 127.0.0.1:14430
	Log      daemon.LogConfig `toml:"log"`
}

func runCommand() *cobra.Command {
	var file string
	c := newConfig()
	cmd := &cobra.Command{
		Use:   "run --disk DEV --receiver HOST:PORT",
		Short: "Track disks and keep their copies at the receiver up to date",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				if err := loadUnderFlags(cmd, file, &c); err != nil {
					return err
				}
			}
			return run(cmd.Context(), c, file)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (TOML); flags win over it")
	runFlags(cmd.Flags(), &c)
	return cmd
}

// newConfig has the defaults of the flags whose type is no plain one; runFlags sets the others.
func newConfig() config {
	return config{
		PKI: "/etc/understudy/pki", Carrier: link.QUIC, Control: defaultSocket,
		Config: agent.Config{Compress: codec.LevelS2, Unfreezable: agent.UnfreezableRefuse, Freeze: new(true)},
	}
}

// runFlags makes a flag for every key of the configuration, but for those of tables.
func runFlags(f *pflag.FlagSet, c *config) {
	f.StringSliceVar(&c.Disks, "disk", nil, "block device to protect: whole disk, partition, loop device; may be given several times")
	f.StringVar(&c.Receiver, "receiver", "", "the receiver's HOST:PORT")
	f.StringVar(&c.Host, "host", "", "name of this host (default: the kernel's)")
	f.DurationVar(&c.Interval, "interval", 5*time.Second, "from one recovery point to the next")
	f.StringVar(&c.StateDir, "state-dir", "/var/lib/understudy/agent", "where disk ids are kept")
	f.StringVar(&c.PKI, "pki", c.PKI, "folder with ca.crt, host.crt and host.key")
	f.Var(&c.Carrier, "carrier", "carrier of the link")
	f.Var(&c.Compress, "compress", "compression on the link and in the journal")
	f.Uint32Var((*uint32)(&c.BlockSize), "block-size", 0, "granularity of tracking in bytes (default 4096, coarser for huge disks)")
	f.BoolVar(c.Freeze, "freeze", true, "freeze mounted file systems for a point; without it all points are fuzzy")
	f.DurationVar(&c.FreezeBudget, "freeze-budget", 50*time.Millisecond, "what a freeze is made to stay under; the guard ends it 100ms later")
	f.Int64Var((*int64)(&c.Memory), "memory", int64(256*block.MiB), "bytes of memory for the agent; what 184 MiB leave of it a freeze may fill")
	f.Var(&c.Unfreezable, "unfreezable", "points of a disk whose writes no freeze stops (raw database, swap)")
	f.Int64Var((*int64)(&c.ScanRate), "scan-rate", 0, "bytes of a disk read in a second when it is compared after a gap in tracking (default unlimited)")
	f.DurationVar(&c.VerifyEvery, "verify-every", 7*24*time.Hour, "in what time a disk is compared with its copy once, a little at a time; negative: never")
	f.Int64Var((*int64)(&c.VerifyRate), "verify-rate", 32<<20, "bytes of a disk read in a second for that, at most")
	f.StringVar(&c.Control, "control", c.Control, "control socket, for the understudy command")
	f.StringVar(&c.Metrics, "metrics", defaultMetrics, "HOST:PORT of the metrics for Prometheus, or off")
	f.StringVar(&c.Log.Level, "log-level", "info", "least level that is logged: debug, info, warn or error")
	f.StringVar(&c.Log.Format, "log-format", "text", "form of the log: text or json")
}

// loadUnderFlags loads the file, then sets the flags that were given once more, so that they win.
func loadUnderFlags(cmd *cobra.Command, file string, c *config) error {
	given := map[string]string{}
	disks := c.Disks
	cmd.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
	if err := daemon.LoadConfig(file, c); err != nil {
		return err
	}
	for name, value := range given {
		if name == "disk" {
			c.Disks = disks
			continue
		}
		if err := cmd.Flags().Set(name, value); err != nil {
			return daemon.Exit(daemon.CodeUsage, err)
		}
	}
	return nil
}

// run assembles the agent and runs it until ctx ends.
func run(ctx context.Context, c config, file string) error {
	log, level, err := daemon.NewLeveledLogger(os.Stderr, c.Log)
	if err != nil {
		return err
	}
	if c.Receiver == "" {
		return daemon.Exitf(daemon.CodeUsage, "no receiver: name one with --receiver HOST:PORT")
	}
	keeper, err := link.NewKeeper(c.PKI, log)
	if err != nil {
		return daemon.Exit(daemon.CodeRefused, err)
	}
	if err := ebpf.Probe(); err != nil {
		return err
	}
	cd, err := codec.New()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	lc := link.Config{Current: keeper.Current, Role: wire.RoleSource, Log: log}
	supervised := daemon.Supervised{Log: log, Reload: daemon.NewReload(file, log, level, func(c *config) *daemon.LogConfig { return &c.Log })}
	a, err := agent.New(c.Config, agent.Parts{
		Dial:  func(ctx context.Context) (*link.Session, error) { return link.Dial(ctx, c.Carrier, c.Receiver, lc) },
		Open:  openTracker,
		Codec: cd,
		Renew: func(ctx context.Context, s *link.Session) { link.KeepRenewed(ctx, s, keeper, log) },
		Guard: []string{self, "guard"},
		Log:   log,

		Record:  recordPath(c.Control),
		Ready:   supervised.Start,
		Machine: agent.MachineID("/sys", "/proc"),
	})
	if err != nil {
		return daemon.Exit(daemon.CodeUsage, err)
	}
	exporter, err := exporterOf(c, a, keeper, log)
	if err != nil {
		return err
	}
	control, err := daemon.ListenControl(c.Control)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var upkeep sync.WaitGroup
	defer upkeep.Wait()
	defer cancel()
	upkeep.Go(func() { keeper.Run(ctx) })
	upkeep.Go(func() { exporter.Run(ctx) })
	thawLeft(c.Control, log)
	supervised.Alive = a.Alive
	defer supervised.Run(ctx)()
	return serve(ctx, a, control)
}

// exporterOf shows the agent's metrics.
func exporterOf(c config, a *agent.Agent, keeper *link.Keeper, log *slog.Logger) (*daemon.Exporter, error) {
	var shown metrics.Registry
	process := metrics.Process("understudy-agent", daemon.Version(), time.Now())
	err := errors.Join(shown.Register(process), a.Register(&shown), keeper.Register(&shown), daemon.CheckExporterAddr(c.Metrics))
	return &daemon.Exporter{Addr: c.Metrics, Metrics: &shown, Alive: a.Alive, Log: log}, err
}

// serve runs the agent and its control socket side by side; the end of either ends both.
func serve(ctx context.Context, a *agent.Agent, control *daemon.Control) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, handler(a))
		cancel()
	}()
	err := a.Run(ctx)
	cancel()
	err = errors.Join(err, <-done)
	if errors.Is(err, capture.ErrInUse) {
		return daemon.Exit(daemon.CodeInUse, err)
	}
	return err
}

// handler answers what understudy asks of an agent.
func handler(a *agent.Agent) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/status", daemon.Reply(func(context.Context, *http.Request, func(done, total int64)) (any, error) {
		return a.Status(), nil
	}))
	mux.Handle("/verify", daemon.Reply(func(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
		report, err := a.Verify(ctx, r.URL.Query().Get("disk"), func(done, total block.Size) { progress(int64(done), int64(total)) })
		if errors.Is(err, agent.ErrUnknownDisk) {
			err = daemon.Exit(daemon.CodeNotFound, err)
		}
		return report, err
	}))
	mux.Handle("/rejoin", daemon.Reply(func(_ context.Context, r *http.Request, _ func(done, total int64)) (any, error) {
		status, err := a.Rejoin(r.URL.Query().Get("disk"))
		if errors.Is(err, agent.ErrUnknownDisk) {
			err = daemon.Exit(daemon.CodeNotFound, err)
		}
		return status, err
	}))
	return mux
}

func openTracker(device string, id block.DiskID, granularity block.BlockSize, maxBitmap block.Size) (capture.Tracker, error) {
	t, err := ebpf.Attach(ebpf.Options{Device: device, Disk: id, BlockSize: granularity, MaxBitmap: maxBitmap})
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	return t, nil
}
