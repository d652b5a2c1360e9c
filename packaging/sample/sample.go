// Package sample reads the sample configurations that are packaged, for the tests that hold them against the code: every line of
// them is a comment, and those that have no space after the # are configuration.
package sample

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// commented is a key or the head of a table that was made a comment.
var commented = regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`)

// Uncomment is the configuration in the sample at path.
func Uncomment(path string) (text string, err error) {
	raw, err := os.ReadFile(path)
	return commented.ReplaceAllString(string(raw), "$1"), err
}

// Missing are those of keys, with dots between their parts, that text does not set.
func Missing(text string, keys []string) (missing []string, err error) {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		return nil, fmt.Errorf("decode sample: %w", err)
	}
	for _, key := range keys {
		if !has(tree, strings.Split(key, ".")) {
			missing = append(missing, key)
		}
	}
	return missing, nil
}

func has(tree any, path []string) bool {
	if several, ok := tree.([]map[string]any); ok && len(several) > 0 {
		tree = several[0]
	}
	table, ok := tree.(map[string]any)
	if !ok || len(path) == 0 {
		return len(path) == 0
	}
	next, ok := table[path[0]]
	return ok && has(next, path[1:])
}
