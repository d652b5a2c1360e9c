//go:build docs

package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// AddManual adds the command that writes root's man pages and shell completions to a folder, where packages are built with the
// tag docs: what is installed does not carry the generator. The date of the pages is SOURCE_DATE_EPOCH (seconds since 1970).
func AddManual(root *cobra.Command) {
	root.AddCommand(&cobra.Command{
		Use: "manual DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return writeManual(root, args[0]) },
	})
}

func writeManual(root *cobra.Command, dir string) error {
	var seconds int64
	if _, err := fmt.Sscan(os.Getenv("SOURCE_DATE_EPOCH"), &seconds); err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	date := time.Unix(seconds, 0).UTC()
	name := root.Name()
	root.DisableAutoGenTag = true
	if err := os.MkdirAll(filepath.Join(dir, "man"), 0o755); err != nil {
		return err
	}
	header := &doc.GenManHeader{Section: "1", Date: &date, Source: "Understudy " + Version(), Manual: "Understudy"}
	if err := doc.GenManTree(root, header, filepath.Join(dir, "man")); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	for shell, generate := range map[string]func(path string) error{
		"bash": func(path string) error { return root.GenBashCompletionFileV2(path, true) },
		"zsh":  root.GenZshCompletionFile,
		"fish": func(path string) error { return root.GenFishCompletionFile(path, true) },
	} {
		if err := generate(filepath.Join(dir, name+"."+shell)); err != nil {
			return fmt.Errorf("write completion for %s: %w", shell, err)
		}
	}
	return nil
}
