package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/wire"
)

// command has the receiver do something, shows how far it is under that name, and decodes what it answers.
func (o *options) command(cmd *cobra.Command, name string, c wire.Message, into any) error {
	ctx := cmd.Context()
	s, stream, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close(nil)
	defer context.AfterFunc(ctx, func() { s.Close(nil) })()
	if err := stream.Send(c); err != nil {
		return exitCode(err)
	}
	if err := stream.Flush(); err != nil {
		return exitCode(err)
	}
	bar := daemon.NewProgress(cmd.ErrOrStderr(), name)
	told := false
	for {
		got, err := stream.Receive()
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return exitCode(err)
		}
		switch m := got.Message.(type) {
		case *wire.Progress:
			told = true
			bar.Set(int64(m.Done), int64(m.Total))
		case *wire.Reply:
			if told {
				bar.Finish(nil)
			}
			return json.Unmarshal(m.Document, into)
		case *wire.Error:
			bar.Finish(m)
			return exitCode(m)
		default:
			return fmt.Errorf("receiver sent %T: %w", m, wire.ErrProtocol)
		}
	}
}
