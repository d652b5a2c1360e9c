package daemon

import (
	"encoding"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// ConfigField is a key that a configuration file may have, and the field that it sets.
type ConfigField struct {
	Key    toml.Key            // with the names of the tables that it is in before it
	Field  reflect.StructField // its tags say what the code doesn't: see packaging/keys
	Value  reflect.Value       // in the struct that was given; in a new one where that holds none of several tables
	InEach bool                // it is in a table of which there may be several
}

// ConfigFields lists the keys that a configuration file for the struct that into points at may have, in the order of its fields.
// Tables are walked through, and of several the first; a map is one key, since it may have any.
func ConfigFields(into any) []ConfigField {
	return configFields(nil, reflect.ValueOf(into).Elem(), false)
}

func configFields(path toml.Key, table reflect.Value, inEach bool) (all []ConfigField) {
	for field, value := range table.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		if name == "-" || !field.IsExported() {
			continue
		}
		if field.Anonymous && name == "" {
			all = append(all, configFields(path, value, inEach)...)
			continue
		}
		if name == "" {
			name = field.Name
		}
		key := append(slices.Clone(path), name)
		if inner, each := tableOf(value); inner.IsValid() {
			all = append(all, configFields(key, inner, inEach || each)...)
			continue
		}
		all = append(all, ConfigField{Key: key, Field: field, Value: value, InEach: inEach})
	}
	return all
}

var textual = reflect.TypeFor[encoding.TextUnmarshaler]()

// tableOf is the struct that v is, points at, or has several of; none where v is no table in the file.
func tableOf(v reflect.Value) (table reflect.Value, several bool) {
	for {
		t := v.Type()
		if t.Implements(textual) || reflect.PointerTo(t).Implements(textual) {
			return reflect.Value{}, false // a string in the file
		}
		switch {
		case t.Kind() == reflect.Struct:
			return v, several
		case t.Kind() == reflect.Slice && v.Len() > 0:
			v, several = v.Index(0), true
		case t.Kind() == reflect.Slice:
			v, several = reflect.New(t.Elem()).Elem(), true
		case t.Kind() == reflect.Pointer && !v.IsNil():
			v = v.Elem()
		case t.Kind() == reflect.Pointer:
			v = reflect.New(t.Elem()).Elem()
		default:
			return reflect.Value{}, false
		}
	}
}

// ConfigKeys lists the keys that a configuration file for the struct that into points at may have, sorted; those of a table, or of
// each of several, with its name and a dot before them. A map has its own name alone.
func ConfigKeys(into any) []string {
	var all []string
	for _, f := range ConfigFields(into) {
		all = append(all, f.Key.String())
	}
	slices.Sort(all)
	return all
}

// keysAt lists what the table that path names may have; nil where there is no such table.
func keysAt(into any, path toml.Key) []string {
	var keys []string
	for _, f := range ConfigFields(into) {
		if len(f.Key) <= len(path) || !slices.EqualFunc(f.Key[:len(path)], path, strings.EqualFold) {
			continue
		}
		if key := f.Key[len(path)]; !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// bareDuration tells whether f is a duration and tree sets it to a number, which the decoder would take for nanoseconds.
func (f ConfigField) bareDuration(tree map[string]any) bool {
	return f.Field.Type == reflect.TypeFor[time.Duration]() && holdsNumber(tree, f.Key)
}

// holdsNumber tells whether path leads to a number other than 0 in tree, in any of several tables.
func holdsNumber(tree any, path toml.Key) bool {
	switch at := tree.(type) {
	case int64:
		return len(path) == 0 && at != 0
	case []map[string]any:
		return slices.ContainsFunc(at, func(table map[string]any) bool { return holdsNumber(table, path) })
	case map[string]any:
		for key, value := range at {
			if len(path) > 0 && strings.EqualFold(key, path[0]) && holdsNumber(value, path[1:]) {
				return true
			}
		}
	}
	return false
}
