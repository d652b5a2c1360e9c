package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// dial opens a session with the receiver and a stream on it.
func (o *options) dial(ctx context.Context) (*link.Session, *link.Stream, error) {
	if o.receiver == "" {
		return nil, nil, daemon.Exitf(daemon.CodeUsage, "no receiver: name one with --receiver HOST:PORT")
	}
	var carrier link.Carrier
	if err := carrier.Set(o.carrier); err != nil {
		return nil, nil, daemon.Exit(daemon.CodeUsage, err)
	}
	credentials, err := link.LoadCredentials(o.pki)
	if err != nil {
		return nil, nil, daemon.Exit(daemon.CodeRefused, err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := link.Dial(ctx, carrier, o.receiver, link.Config{Credentials: credentials, Role: personOf(credentials), Log: log})
	if err != nil {
		code := daemon.CodeUnreachable
		if link.Permanent(err) {
			code = daemon.CodeRefused
		}
		return nil, nil, daemon.Exit(code, err)
	}
	stream, err := s.OpenStream(ctx)
	if err != nil {
		s.Close(nil)
		return nil, nil, daemon.Exit(daemon.CodeUnreachable, err)
	}
	return s, stream, nil
}

// personOf is the role that the certificate gives a person. For that of a host it is one that the certificate does not give,
// and the refusal says how to get one.
func personOf(c *link.Credentials) wire.Role {
	for _, role := range c.Roles {
		if role.Person() {
			return role
		}
	}
	return wire.RoleOperator
}

// expect reads one message and holds that it is a T.
func expect[T wire.Message](stream *link.Stream) (T, error) {
	var none T
	got, err := stream.Receive()
	if err != nil {
		return none, err
	}
	switch m := got.Message.(type) {
	case T:
		return m, nil
	case *wire.Error:
		return none, m
	}
	return none, fmt.Errorf("receiver sent %T: %w", got.Message, wire.ErrProtocol)
}

// exitCode gives what a receiver answered its exit code.
func exitCode(err error) error {
	var corrupt *block.CorruptionError
	switch {
	case errors.Is(err, wire.ErrUnknownDisk), errors.Is(err, wire.ErrNoPoint):
		return daemon.Exit(daemon.CodeNotFound, err)
	case errors.Is(err, wire.ErrForbidden), errors.Is(err, wire.ErrFenced), errors.Is(err, wire.ErrVersion),
		errors.Is(err, wire.ErrCertificate), errors.Is(err, wire.ErrToken), errors.Is(err, wire.ErrNoSigner):
		return daemon.Exit(daemon.CodeRefused, err)
	case errors.Is(err, wire.ErrBusy):
		return daemon.Exit(daemon.CodeInUse, err)
	case errors.Is(err, wire.ErrCorrupt), errors.Is(err, block.ErrChecksum), errors.As(err, &corrupt):
		return daemon.Exit(daemon.CodeDamaged, err)
	}
	return err
}
