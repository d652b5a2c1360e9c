// Command understudy-receiver runs in the other site: it takes the changes of protected disks in, keeps them as recovery
// points, and gives them back.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/metrics"
	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver"
	"github.com/understudy-dr/understudy/receiver/journal"
)

func main() {
	ctx, stop := daemon.Context(context.Background())
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "understudy-receiver:", err)
	}
	os.Exit(int(daemon.ExitCode(err)))
}

// config is the receiver's configuration file; every key has a flag of the same meaning, which wins.
type config struct {
	receiver.Config
	Listen  string           `toml:"listen"`  // HOST:PORT, on TCP and on UDP; default :443
	PKI     string           `toml:"pki"`     // folder with ca.crt, host.crt and host.key; default /etc/understudy/pki
	Metrics string           `toml:"metrics"` // HOST:PORT where Prometheus finds the metrics, or off; default 127.0.0.1:14431
	Log     daemon.LogConfig `toml:"log"`

	CA             string        `toml:"ca" zero:"none: it does neither"` // folder of the site's CA, for a receiver that enrolls hosts and renews certificates; default none
	CertificateTTL time.Duration `toml:"certificate_ttl" range:"1s.."`    // how long the certificates that it signs are good; default 2160h (90 days)
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "understudy-receiver",
		Short:         "Keep verified copies of other hosts' disks",
		Long:          "Keep verified copies of other hosts' disks.\n\nExit codes:\n" + daemon.CodeTable(),
		Version:       daemon.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          daemon.UnknownCommand,
	}
	root.SetFlagErrorFunc(daemon.FlagError)
	root.AddCommand(runCommand(), doctorCommand())
	daemon.AddManual(root)
	return root
}

// defaultMetrics is where the receiver shows its metrics: to its own host alone.
const defaultMetrics = "127.0.0.1:14431"

func runCommand() *cobra.Command {
	var file string
	var c config
	cmd := &cobra.Command{
		Use:   "run --dir DIR",
		Short: "Serve agents and operators",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return run(cmd.Context(), c, file)
			}
			if err := loadUnderFlags(cmd, file, &c); err != nil {
				return err
			}
			return run(cmd.Context(), c, file)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (TOML); flags win over it")
	runFlags(cmd.Flags(), &c)
	return cmd
}

// runFlags makes a flag for every key of the configuration, and sets its default.
func runFlags(f *pflag.FlagSet, c *config) {
	f.StringVar(&c.Dir, "dir", "/var/lib/understudy/receiver", "where journals and volumes live")
	f.StringVar(&c.Listen, "listen", ":443", "HOST:PORT to listen on, TCP and UDP")
	f.StringVar(&c.PKI, "pki", "/etc/understudy/pki", "folder with ca.crt, host.crt and host.key")
	f.StringVar(&c.CA, "ca", "", "folder of the site's CA (ca.crt, ca.key), for a receiver that enrolls hosts and renews certificates")
	f.DurationVar(&c.CertificateTTL, "certificate-ttl", receiver.DefaultCertificateTTL, "how long the certificates that it signs are good")
	c.Keep, c.Horizon = journal.DefaultTiers(), receiver.HorizonWindow
	f.Var(&c.Keep, "keep", "which recovery points are kept, by age: SPAN for all, SPAN/EVERY for one of each interval")
	f.Var(&c.Horizon, "horizon", "where the volume stands: at the oldest point kept (window), or at the newest (latest)")
	f.IntVar(&c.MaxPoints, "max-points", 10000, "how many recovery points of a disk are kept at most")
	f.Int64Var((*int64)(&c.MaxBytes), "max-bytes", 0, "how many bytes of journal a disk has at most, the newest point apart; 0: no limit")
	f.StringVar(&c.Metrics, "metrics", defaultMetrics, "HOST:PORT of the metrics for Prometheus, or off")
	f.StringVar(&c.Log.Level, "log-level", "info", "least level that is logged: debug, info, warn or error")
	f.StringVar(&c.Log.Format, "log-format", "text", "form of the log: text or json")
}

// leastTTL is the shortest life of a certificate: one that is renewed after two thirds of it.
const leastTTL = time.Second

// check says what is wrong with c, nil if nothing is.
func (c config) check() error {
	if c.CertificateTTL < leastTTL && c.CertificateTTL != 0 {
		return fmt.Errorf("certificate_ttl %v is too short: %v at least", c.CertificateTTL, leastTTL)
	}
	return errors.Join(daemon.CheckExporterAddr(c.Metrics), c.Config.Check())
}

// run assembles the receiver and runs it until ctx ends.
func run(ctx context.Context, c config, file string) (err error) {
	log, level, err := daemon.NewLeveledLogger(os.Stderr, c.Log)
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return daemon.Exit(daemon.CodeUsage, err)
	}
	who, err := identify(c, log)
	if err != nil {
		return daemon.Exit(daemon.CodeRefused, err)
	}
	cd, err := codec.New()
	if err != nil {
		return err
	}
	r, err := receiver.New(c.Config, cd, who.signer, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	l, err := link.Listen(c.Listen, []link.Carrier{link.QUIC, link.TCP},
		link.Config{Current: who.keeper.Current, Enroll: who.enroller(), Role: wire.RoleTarget, Log: log})
	if err != nil {
		return err
	}
	defer l.Close()
	exporter, err := exporterOf(c, r, l, who.keeper, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var upkeep sync.WaitGroup
	defer upkeep.Wait()
	defer cancel()
	upkeep.Go(func() { who.keeper.Run(ctx) })
	upkeep.Go(func() { who.renewOwn(ctx) })
	upkeep.Go(func() { exporter.Run(ctx) })
	log.Info("listening", "addr", l.Addr(link.TCP).String(), "dir", c.Dir)
	supervised := daemon.Supervised{
		Log: log, Alive: r.Alive, Reload: daemon.NewReload(file, log, level, func(c *config) *daemon.LogConfig { return &c.Log }),
	}
	defer supervised.Run(ctx)()
	supervised.Start()
	return r.Run(ctx, l)
}

// exporterOf shows the receiver's metrics.
func exporterOf(c config, r *receiver.Receiver, l *link.Listener, keeper *link.Keeper, log *slog.Logger) (*daemon.Exporter, error) {
	var shown metrics.Registry
	process := metrics.Process("understudy-receiver", daemon.Version(), time.Now())
	err := errors.Join(shown.Register(process), r.Register(&shown), l.Register(&shown), keeper.Register(&shown))
	return &daemon.Exporter{Addr: c.Metrics, Metrics: &shown, Alive: r.Alive, Log: log}, err
}
