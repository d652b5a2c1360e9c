// Package sample reads the sample configurations that are packaged, for the tests that hold them against the code: every line of
// them is a comment, and those that have no space after the # are configuration.
package sample

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/understudy-dr/understudy/internal/daemon"
)

// Load holds that the sample at path says nothing as it is, and that it has every key of a T. Then it loads it, all lines in
// force, into c, which has the defaults. It writes to dir.
func Load[T any](path, dir string, c *T) error {
	var as, nothing T
	if err := daemon.LoadConfig(path, &as); err != nil {
		return err
	}
	if !reflect.DeepEqual(as, nothing) {
		return fmt.Errorf("%s sets something as it is packaged: %+v", path, as)
	}
	text, err := uncomment(path)
	if err != nil {
		return err
	}
	lacking, err := missing(text, daemon.ConfigKeys(&as))
	if err != nil {
		return err
	}
	if len(lacking) > 0 {
		return fmt.Errorf("not in %s: %q", path, lacking)
	}
	inForce := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(inForce, []byte(text), 0o600); err != nil {
		return err
	}
	return daemon.LoadConfig(inForce, c)
}

// commented is a key or the head of a table that was made a comment.
var commented = regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`)

// uncomment is the configuration in the sample at path.
func uncomment(path string) (text string, err error) {
	raw, err := os.ReadFile(path)
	return commented.ReplaceAllString(string(raw), "$1"), err
}

// missing are those of keys, with dots between their parts, that text does not set.
func missing(text string, keys []string) (lacking []string, err error) {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		return nil, fmt.Errorf("decode sample: %w", err)
	}
	for _, key := range keys {
		if !has(tree, strings.Split(key, ".")) {
			lacking = append(lacking, key)
		}
	}
	return lacking, nil
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
