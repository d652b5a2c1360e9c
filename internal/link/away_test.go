package link

import (
	"errors"
	"fmt"
	"testing"

	"github.com/understudy-dr/understudy/internal/wire"
)

func TestAwayReason(t *testing.T) {
	for want, err := range map[string]error{
		awayRate:        errTooFast,
		awayHalfOpen:    fmt.Errorf("%w from this address", errTooMany),
		awayCertificate: wire.Errorf(wire.CodeCertificate, "of another CA"),
		awayClock:       fmt.Errorf("hello: %w", wire.Errorf(wire.CodeClock, "an hour ahead")),
		awayToken:       wire.Errorf(wire.CodeToken, "it was used"),
		awayRefused:     wire.Errorf(wire.CodeForbidden, "no target may dial"),
		awayHandshake:   errors.New("EOF"),
	} {
		if got := awayReason(err); got != want {
			t.Errorf("%v is counted as %s, want %s", err, got, want)
		}
	}
}
