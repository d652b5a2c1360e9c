package daemon

import (
	"encoding"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxConfig bounds a configuration file in bytes: one that is larger is some other file, named by mistake.
const maxConfig = 1 << 20

// LoadConfig decodes the TOML file at path into the struct that into points at. A key that the struct does not have is an
// error that names the file, the line and the nearest key there is. What the file does not mention keeps its value. All
// errors have CodeUsage, except that of a missing file, which has CodeNotFound.
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
	unknown := meta.Undecoded()
	if len(unknown) == 0 {
		return nil
	}
	key := unknown[0]
	where := path
	if line := lineOf(text, key); line > 0 {
		where = fmt.Sprintf("%s:%d", path, line)
	}
	return Exitf(CodeUsage, "%s: unknown key %s%s", where, key, suggest(key[len(key)-1], keysAt(reflect.TypeOf(into), key[:len(key)-1])))
}

// ConfigKeys lists the keys that a configuration file for the struct that into points at may have, sorted; those of a table, or of
// each of several, with its name and a dot before them. A map has its own name alone: it may have any.
func ConfigKeys(into any) []string {
	var all []string
	var walk func(path toml.Key)
	walk = func(path toml.Key) {
		keys := keysAt(reflect.TypeOf(into), path)
		if len(keys) == 0 {
			all = append(all, path.String())
		}
		for _, key := range keys {
			walk(append(slices.Clone(path), key))
		}
	}
	walk(nil)
	slices.Sort(all)
	return all
}

// lineOf is the line, from 1, that sets key, or 0 where it can't be told. The decoder does not say, and the files are
// small, so the text is decoded again line by line: the first prefix in which the key is defined ends with its line.
func lineOf(text string, key toml.Key) int {
	lines := strings.SplitAfter(text, "\n")
	prefix := 0
	for i, line := range lines {
		prefix += len(line)
		var tree map[string]any
		meta, err := toml.Decode(text[:prefix], &tree)
		// Not IsDefined: it does not see into arrays of tables.
		if err == nil && slices.ContainsFunc(meta.Keys(), func(k toml.Key) bool { return slices.Equal(k, key) }) {
			return i + 1
		}
	}
	return 0
}

var textual = reflect.TypeFor[encoding.TextUnmarshaler]()

// keysAt lists the keys that type t has in the table that path names; nil where there is no such table.
func keysAt(t reflect.Type, path toml.Key) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		if t.Implements(textual) || reflect.PointerTo(t).Implements(textual) {
			return nil // a string in the file
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if name == "-" || !field.IsExported() {
			continue
		}
		if field.Anonymous && name == "" {
			keys = append(keys, keysAt(field.Type, path)...)
			continue
		}
		if name == "" {
			name = field.Name
		}
		if len(path) == 0 {
			keys = append(keys, name)
		} else if strings.EqualFold(name, path[0]) {
			return keysAt(field.Type, path[1:])
		}
	}
	return keys
}
