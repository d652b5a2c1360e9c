package main

import (
	"errors"
	"flag"
	"io"
	"testing"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/packaging/keys"
)

var update = flag.Bool("update", false, "write the table into docs/CONFIG.md")

// TestTheTableOfKeys: docs/CONFIG.md has every key as the code has it, each with a meaning, each number with a unit; and the limits,
// values and reloads that it names are those of the code.
func TestTheTableOfKeys(t *testing.T) {
	var c config
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	runFlags(flags, &c)
	all, err := keys.List(flags, &c)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Hold("../../docs/CONFIG.md", "understudy-receiver", keys.Table(all), *update); err != nil {
		t.Error(err)
	}
	claims := keys.Claims[config]{
		Good: func() *config { good := c; return &good }, Dir: t.TempDir(),
		Log: func(c *config) *daemon.LogConfig { return &c.Log },
		Check: func(c *config) error {
			_, err := daemon.NewLogger(io.Discard, c.Log)
			return errors.Join(err, c.check())
		},
	}
	if err := claims.Hold(all); err != nil {
		t.Error(err)
	}
}
