package daemon

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Nearest is the known word that is the fewest single-letter edits from word (Levenshtein), and whether it is near enough
// to be what was meant: a third of the longer word, at least one letter. Of equally near words the first in order wins.
func Nearest(word string, known []string) (string, bool) {
	sorted := slices.Sorted(slices.Values(known))
	best, least := "", -1
	for _, k := range sorted {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); least < 0 || d < least {
			best, least = k, d
		}
	}
	if least < 0 || least > max(1, (max(len(word), len(best))+2)/3) {
		return "", false
	}
	return best, true
}

// suggest is the end of an error about an unknown word: the nearest known one, or all of them.
func suggest(word string, known []string) string {
	if near, ok := Nearest(word, known); ok {
		return "; did you mean " + near + "?"
	}
	return "; known are " + strings.Join(slices.Sorted(slices.Values(known)), ", ")
}

// distance is the Levenshtein distance in bytes, by the two-row form of the Wagner-Fischer algorithm.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// FlagError is for cobra's SetFlagErrorFunc: an unknown flag becomes an error that names the nearest one, and every flag
// error gets CodeUsage.
func FlagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return Exit(CodeUsage, err)
	}
	var known []string
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, "--"+f.Name)
		}
	}
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	if unknown.GetSpecifiedShortnames() != "" {
		return Exitf(CodeUsage, "unknown flag -%s; see %s --help", unknown.GetSpecifiedName(), cmd.CommandPath())
	}
	word := "--" + unknown.GetSpecifiedName()
	if near, ok := Nearest(word, known); ok {
		return Exitf(CodeUsage, "unknown flag %s; did you mean %s?", word, near)
	}
	return Exitf(CodeUsage, "unknown flag %s; see %s --help", word, cmd.CommandPath())
}

// UnknownCommand is for a parent command's RunE and Args: it refuses a word that is no subcommand and names the nearest one.
func UnknownCommand(cmd *cobra.Command, args []string) error {
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	if len(args) == 0 {
		return Exitf(CodeUsage, "%s needs a command: %s", cmd.CommandPath(), strings.Join(known, ", "))
	}
	return Exitf(CodeUsage, "unknown command %q for %s%s", args[0], cmd.CommandPath(), suggest(args[0], known))
}
