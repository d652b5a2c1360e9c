package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxConfig bounds a configuration file in bytes: one that is larger is some other file, named by mistake.
const maxConfig = 1 << 20

// LoadConfig decodes the TOML file at path into the struct that into points at. A key that the struct does not have is an
// error that names the file, the line and the nearest key there is; so is a duration without a unit. What the file does not mention
// keeps its value. All errors have CodeUsage, except that of a missing file, which has CodeNotFound.
func LoadConfig(path string, into any) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Exitf(CodeNotFound, "no configuration file %s", path)
	case err != nil:
		return Exitf(CodeUsage, "read configuration: %w", err)
	case info.Size() > maxConfig:
		return Exitf(CodeUsage, "%s has %d bytes: a configuration has %d at most", path, info.Size(), maxConfig)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Exitf(CodeUsage, "read configuration: %w", err)
	}
	return decodeConfig(path, string(text), into)
}

func decodeConfig(path, text string, into any) error {
	meta, err := toml.Decode(text, into)
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		return Exitf(CodeUsage, "%s:%d: %s", path, parse.Position.Line, parse.Message)
	}
	if err != nil {
		return Exitf(CodeUsage, "%s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		key := unknown[0]
		// Not IsDefined: it does not see into arrays of tables.
		where := place(path, text, func(_ map[string]any, meta toml.MetaData) bool {
			return slices.ContainsFunc(meta.Keys(), func(k toml.Key) bool { return slices.Equal(k, key) })
		})
		return Exitf(CodeUsage, "%s: unknown key %s%s", where, key, suggest(key[len(key)-1], keysAt(into, key[:len(key)-1])))
	}
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		return Exitf(CodeUsage, "%s: %w", path, err)
	}
	for _, f := range ConfigFields(into) {
		if f.bareDuration(tree) {
			where := place(path, text, func(tree map[string]any, _ toml.MetaData) bool { return f.bareDuration(tree) })
			return Exitf(CodeUsage, "%s: %s needs a unit, and quotes: \"90s\", \"10m\" or \"168h\"", where, f.Key)
		}
	}
	return nil
}

// place is path with the line, from 1, from which on found holds, or path alone where it never does. The decoder does not say
// where a key stands, and the files are small, so the text is decoded again line by line.
func place(path, text string, found func(tree map[string]any, meta toml.MetaData) bool) string {
	prefix := 0
	for i, line := range strings.SplitAfter(text, "\n") {
		prefix += len(line)
		var tree map[string]any
		if meta, err := toml.Decode(text[:prefix], &tree); err == nil && found(tree, meta) {
			return fmt.Sprintf("%s:%d", path, i+1)
		}
	}
	return path
}
