package link_test

import (
	"errors"
	"os"

	"github.com/understudy-dr/understudy/internal/link"
)

// timeoutOnly tells a deadline that passed.
func timeoutOnly(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) && link.Broken(err) }
