package daemon

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"
)

// lineEvery is how often Progress prints a line where there is no terminal.
const lineEvery = 5 * time.Second

// Progress shows how far long work is: a bar with bytes, rate and time left on a terminal, a plain line now and then
// elsewhere. It is for one goroutine.
type Progress struct {
	w     io.Writer
	name  string
	begun time.Time
	now   func() time.Time

	bars *mpb.Progress // nil until the first Set on a terminal
	bar  *mpb.Bar
	tty  bool

	said        time.Time
	done, total int64
}

// NewProgress makes the progress of the work called name, shown on w.
func NewProgress(w io.Writer, name string) *Progress {
	return &Progress{w: w, name: name, now: time.Now, begun: time.Now(), tty: IsTerminal(w)}
}

// IsTerminal tells whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Set says that done of total bytes are done. A total of 0 is not known yet.
func (p *Progress) Set(done, total int64) {
	p.done, p.total = done, total
	if p.tty {
		p.startBar()
		p.bar.SetTotal(total, false)
		p.bar.SetCurrent(done)
		return
	}
	now := p.now()
	if p.said.IsZero() {
		p.said = p.begun
	}
	if now.Sub(p.said) >= lineEvery {
		p.said = now
		fmt.Fprintln(p.w, p.line())
	}
}

// Finish shows the end: all of it when err is nil. It returns when the terminal is whole again.
func (p *Progress) Finish(err error) {
	if p.tty {
		if p.bar == nil {
			return
		}
		if err != nil {
			p.bar.Abort(false)
		} else {
			p.bar.SetTotal(p.done, true)
		}
		p.bars.Wait()
		return
	}
	if err == nil {
		fmt.Fprintln(p.w, p.line())
	}
}

func (p *Progress) startBar() {
	if p.bars != nil {
		return
	}
	p.bars = mpb.New(mpb.WithOutput(p.w), mpb.WithWidth(48), mpb.WithRefreshRate(200*time.Millisecond))
	// A bar made with total 0 does not end by itself: Finish ends it, so that the total may still change.
	p.bar = p.bars.AddBar(0,
		mpb.PrependDecorators(decor.Name(p.name+" ", decor.WCSyncSpaceR)),
		// The bar is drawn by a goroutine of its own: it works from what mpb hands over, not from p.
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			return describe(s.Current, s.Total, time.Since(p.begun))
		})),
	)
}

// line is the plain form of the bar.
func (p *Progress) line() string {
	return p.name + ": " + describe(p.done, p.total, p.now().Sub(p.begun))
}

// describe says how much is done, how fast, and how long the rest takes at that rate. A total of 0 is not known.
func describe(done, total int64, took time.Duration) string {
	rate := int64(float64(done) / max(took.Seconds(), 1e-3))
	if total <= 0 {
		return fmt.Sprintf("%s, %s/s", bytesText(done), bytesText(rate))
	}
	text := fmt.Sprintf("%s of %s (%d %%), %s/s", bytesText(done), bytesText(total), done*100/total, bytesText(rate))
	if done >= total {
		return text + ", took " + took.Round(time.Second/10).String()
	}
	if rate == 0 {
		return text
	}
	left := time.Duration(float64(total-done) / float64(rate) * float64(time.Second))
	return text + ", " + left.Round(time.Second).String() + " left"
}

// bytesText is n bytes in the largest binary unit that leaves at least one of it.
func bytesText(n int64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}
