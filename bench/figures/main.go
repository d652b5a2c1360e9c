// Command figures measures what this machine and its neighbours can't blur: what tracking costs an application's writes, as a
// ratio to the same writes untracked, what a first sync costs in processor time, next to the same bytes through bare TLS, how fast a view
// of a recovery point is, and what recovery points of a busy disk cost and how old they get.
// All that is compared alternates in one run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/bench/rig"
	"github.com/understudy-dr/understudy/bench/testbed"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == tlsCommand {
		if err := tlsMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var f figures
	var dir string
	flag.StringVar(&f.bin, "bin", rig.DefaultBin(), "folder of the built commands")
	flag.StringVar(&dir, "dir", "", "where the disks' files go (default: memory if there is enough, else the folder for temporary files)")
	flag.StringVar(&f.only, "only", "", "measure only this: tracking, sync, views or points")
	flag.IntVar(&f.rounds, "pairs", 21, "tracking, views: rounds of what is compared")
	flag.DurationVar(&f.fioTime, "fio-time", time.Second, "tracking: how long fio writes in each")
	flag.Int64Var(&f.data, "data", 4<<30, "sync: bytes of files on the disk")
	flag.IntVar(&f.syncs, "syncs", 3, "sync: rounds of bare TLS and a first sync over each carrier")
	flag.IntVar(&f.turns, "turns", 4, "points: rounds of writes without and with protection")
	flag.DurationVar(&f.turnTime, "turn-time", 30*time.Second, "points: how long each is")
	flag.BoolVar(&f.json, "json", false, "print the results as JSON")
	flag.StringVar(&f.out, "out", "bench/out/figures.json", "file that gets the results as JSON too")
	os.Exit(rig.Main("figures", flag.Parse, &dir, func(ctx context.Context, bed *testbed.Bed) error {
		f.bed = bed
		return f.run(ctx)
	}))
}

// figures is one run.
type figures struct {
	bed     *testbed.Bed
	bin     string
	only    string
	rounds  int
	fioTime time.Duration
	data    int64
	syncs   int
	json    bool
	out     string

	turns    int
	turnTime time.Duration
}

// report is what a run found.
type report struct {
	Time     time.Time       `json:"time"`
	Machine  machine         `json:"machine"`
	Command  string          `json:"command"`
	Tracking []trackingRow   `json:"tracking,omitempty"`
	Sync     *firstSyncTable `json:"first_sync,omitempty"`
	Views    *viewTable      `json:"views,omitempty"`
	Points   *pointsTable    `json:"points,omitempty"`
}

func (f *figures) run(ctx context.Context) error {
	if f.only != "" && !slices.Contains([]string{"tracking", "sync", "views", "points"}, f.only) {
		return fmt.Errorf("--only %s: there are tracking, sync, views and points", f.only)
	}
	if f.rounds < 1 || f.syncs < 1 || f.turns < 1 || f.turnTime < 10*time.Second || f.data < 64<<20 || f.fioTime < time.Second {
		return errors.New("at least one round, one second, a turn of ten and 64 MiB are needed")
	}
	r := report{Time: time.Now().UTC(), Machine: thisMachine(), Command: "figures " + strings.Join(os.Args[1:], " ")}
	err := errors.Join(
		f.figure("tracking", func() (err error) { r.Tracking, err = f.tracking(ctx); return err }),
		f.figure("sync", func() (err error) { r.Sync, err = f.firstSync(ctx); return err }),
		f.figure("views", func() (err error) { r.Views, err = f.views(ctx); return err }),
		f.figure("points", func() (err error) { r.Points, err = f.points(ctx); return err }),
	)
	if r.Tracking == nil && r.Sync == nil && r.Views == nil && r.Points == nil {
		return err
	}
	return errors.Join(err, f.publish(r))
}

// figure measures one thing in a bed of its own, if it is wanted: none is in another's way, and one that fails takes none along.
func (f *figures) figure(name string, measure func() error) (err error) {
	if f.only != "" && f.only != name {
		return nil
	}
	outer := f.bed
	if f.bed, err = testbed.New(outer.Dir()); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.bed.Close())
		f.bed = outer
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			progress("%v", err)
		}
	}()
	return measure()
}

// publish stores the results and prints them.
func (f *figures) publish(r report) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if err := os.MkdirAll(filepath.Dir(f.out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(f.out, text, 0o644); err != nil {
		return err
	}
	if f.json {
		_, err = os.Stdout.Write(text)
		return err
	}
	r.print(os.Stdout)
	fmt.Println("all samples:", f.out)
	return nil
}

// progress goes to standard error: standard output is for the results.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
