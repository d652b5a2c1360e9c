package main

import (
	"errors"
	"flag"
	"io"
	"testing"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/agent"
	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/packaging/keys"
)

var update = flag.Bool("update", false, "write the table into docs/CONFIG.md")

// TestTheTableOfKeys: docs/CONFIG.md has every key as the code has it, each with a meaning, each number with a unit; and the limits,
// values and reloads that it names are those of the code.
func TestTheTableOfKeys(t *testing.T) {
	good := func() *config {
		c := newConfig()
		runFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &c)
		c.Disks = []string{"/dev/null"}
		return &c
	}
	c := newConfig()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	runFlags(flags, &c)
	c.Applications = []agent.Application{agent.DefaultApplication()}
	all, err := keys.List(flags, &c)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Hold("../../docs/CONFIG.md", "understudy-agent", keys.Table(all), *update); err != nil {
		t.Error(err)
	}
	claims := keys.Claims[config]{
		Good: good, Dir: t.TempDir(),
		Base: map[string]string{"[[application]]": "name = \"db\"\npre_freeze = \"/bin/true\"\n"},
		Log:  func(c *config) *daemon.LogConfig { return &c.Log },
		Check: func(c *config) error {
			_, err := daemon.NewLogger(io.Discard, c.Log)
			return errors.Join(err, c.Check())
		},
	}
	if err := claims.Hold(all); err != nil {
		t.Error(err)
	}
}
