package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/receiver/journal"
)

func dumpCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "dump FILE…",
		Short: "Show what is in files of ours: deltas, a journal's records, an agent's or receiver's state, certificates, ledgers",
		Args:  atLeast(1, "FILE…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cd, err := codec.New()
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			for _, path := range args {
				if len(args) > 1 && !o.json {
					fmt.Fprintf(w, "==> %s <==\n", path)
				}
				known, err := dumpPKI(w, path, o.json)
				if err == nil && !known {
					known, err = dumpState(w, path, o.json)
				}
				if err == nil && !known {
					err = journal.Dump(w, path, cd, o.json)
				}
				if errors.Is(err, os.ErrNotExist) {
					err = daemon.Exit(daemon.CodeNotFound, err)
				}
				if err != nil {
					return exitCode(err)
				}
			}
			return nil
		},
	}
}

// maxState is more than a state file of thousands of disks has, in bytes.
const maxState = 4 << 20

// dumpState prints a state file of an agent (disks.json), a receiver (receiver.json) or a CA (tokens/ID.json), which are plain JSON
// with a version.
// known is false when the file is something else.
func dumpState(w io.Writer, path string, asJSON bool) (known bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("dump: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return false, fmt.Errorf("dump: %w", err)
	}
	var state map[string]any
	if json.Unmarshal(raw, &state) != nil || state["version"] == nil {
		return false, nil
	}
	kind := "receiver's folder"
	switch {
	case state["disks"] != nil:
		kind = "agent's disks"
	case state["secret_sha256"] != nil:
		kind = "token"
	}
	if asJSON {
		state["is"] = kind
		return true, json.NewEncoder(w).Encode(state)
	}
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return true, err
	}
	_, err = fmt.Fprintf(w, "%s, version %v: %s\n", kind, state["version"], text)
	return true, err
}
