package daemon

import (
	"context"
	"os/signal"
	"syscall"
)

// Context is one that the first SIGINT or SIGTERM cancels. After that signal, or after stop, the signals have their default
// meaning again: a second Ctrl-C ends a command that hangs while it cleans up.
func Context(parent context.Context) (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
