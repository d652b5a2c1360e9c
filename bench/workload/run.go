package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// databaseName is the database's file below the mount point.
const databaseName = "work.db"

// Command is the first argument of a program that embeds the workload's process; its main hands over to Main then.
const Command = "workload-process"

// Options say what a workload's process does.
type Options struct {
	Root  string        // mount point
	Fill  int64         // bytes of initial data to write before; the process ends after them if Pause is 0
	Pause time.Duration // between the operations of a writer
	Seed  uint64        // of the choice of operations
	Rows  bool          // only the database
}

// Args is the command line for Main.
func (o Options) Args() []string {
	return []string{Command, o.Root, strconv.FormatInt(o.Fill, 10), o.Pause.String(), strconv.FormatUint(o.Seed, 10), strconv.FormatBool(o.Rows)}
}

// Main runs a workload's process for the command line that Args made, until ctx ends, and writes its events to w.
func Main(ctx context.Context, args []string, w io.Writer) error {
	if len(args) != 6 || args[0] != Command {
		return fmt.Errorf("%s is started by bench, not by hand", Command)
	}
	o := Options{Root: args[1]}
	var err [4]error
	o.Fill, err[0] = strconv.ParseInt(args[2], 10, 64)
	o.Pause, err[1] = time.ParseDuration(args[3])
	o.Seed, err[2] = strconv.ParseUint(args[4], 10, 64)
	o.Rows, err[3] = strconv.ParseBool(args[5])
	if err := errors.Join(err[:]...); err != nil {
		return err
	}
	return run(ctx, o, w)
}

// run fills, then runs both writers side by side; the failure of either ends both.
func run(ctx context.Context, o Options, w io.Writer) error {
	report := newReporter(w)
	files := &churn{
		root: o.Root, report: report, pause: o.Pause, there: map[string]uint64{},
		random: rand.New(rand.NewPCG(o.Seed, 1)), seq: (o.Seed + 1) << 40,
	}
	if err := files.prepare(); err != nil {
		return fmt.Errorf("prepare workload: %w", err)
	}
	if o.Fill > 0 {
		files.seq = (o.Seed+1)<<40 + 1<<39 // apart from those of a run with the same seed
		if err := files.fill(ctx, o.Fill); err != nil {
			return fmt.Errorf("write initial data: %w", err)
		}
	}
	if o.Pause == 0 {
		return files.record.Close()
	}
	db := &database{path: filepath.Join(o.Root, databaseName), report: report, pause: o.Pause}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- db.run(ctx)
	}()
	var err error
	if o.Rows {
		<-ctx.Done()
	} else {
		err = files.run(ctx)
	}
	cancel()
	return errors.Join(err, <-done)
}

// Start fills in what a program needs to start itself again as the workload's process.
func (o Options) Start(start func(stdout *os.File, argv ...string) error, ledger *Ledger) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := start(w, append([]string{self}, o.Args()...)...); err != nil {
		r.Close()
		return err
	}
	ledger.follow(r)
	return nil
}
