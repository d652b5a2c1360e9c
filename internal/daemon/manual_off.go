//go:build !docs

package daemon

import "github.com/spf13/cobra"

// AddManual adds nothing: see manual.go.
func AddManual(*cobra.Command) {}
