// Package keys lists the keys of a daemon's configuration as the code has them, writes the tables of docs/CONFIG.md, and holds the
// code to them, for tests.
//
// What a key means is said by its flag, or by the tag doc of its field where a table has it and no flag does. What the type does
// not say is in tags of the field, which the tests hold against the code:
//
//	unit    of a number
//	range   of a number or duration: LEAST.. or LEAST..MOST, or any
//	values  all there are, with | between them, where the type of the flag does not say
//	zero    what a default of 0 or nothing means
//	reload  "true": SIGHUP takes it over
package keys

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/daemon"
)

// Key is a key of a configuration.
type Key struct {
	Name    string   // with a dot between table and key
	Table   string   // the head of its table, with its brackets; empty at the top
	Flag    string   // without dashes; empty where only a file sets it
	Type    string   // in words
	Unit    string   // of numbers and durations
	Default string   // as it is written in the file; empty: Zero says what that means
	Zero    string   // what the default means, where it is 0 or nothing
	Least   string   // of numbers and durations; empty: no limit
	Most    string   // the same
	Values  []string // all that are allowed; nil: any
	Meaning string
	Reload  bool

	value reflect.Value
}

// List lists the keys of config, a pointer to the struct of a daemon whose flags are in flags and have set its defaults, in the
// order of its fields, those of tables last. It is an error if a key has no meaning, a number no unit or range, or a flag no key.
func List(flags *pflag.FlagSet, config any) ([]Key, error) {
	var all []Key
	left := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) { left[f.Name] = true })
	for _, field := range daemon.ConfigFields(config) {
		key, err := newKey(flags, field)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", field.Key, err)
		}
		delete(left, key.Flag)
		all = append(all, key)
	}
	for name := range left {
		return nil, fmt.Errorf("flag --%s has no key in the configuration", name)
	}
	slices.SortStableFunc(all, func(a, b Key) int { return cmp.Compare(len(a.Table), len(b.Table)) })
	return all, nil
}

func newKey(flags *pflag.FlagSet, field daemon.ConfigField) (Key, error) {
	tag := field.Field.Tag
	k := Key{
		Name: field.Key.String(), Type: typeOf(field.Field.Type), Unit: tag.Get("unit"), Zero: tag.Get("zero"),
		Meaning: tag.Get("doc"), Reload: tag.Get("reload") == "true", value: field.Value,
	}
	if k.Type == "duration" && k.Unit == "" {
		k.Unit = "ms, s, m, h"
	}
	if table := field.Key[:len(field.Key)-1].String(); field.InEach {
		k.Table = "[[" + table + "]]"
	} else if table != "" {
		k.Table = "[" + table + "]"
	}
	if limits := tag.Get("range"); limits != "any" {
		k.Least, k.Most, _ = strings.Cut(limits, "..")
	}
	values := tag.Get("values")
	if f := flagOf(flags, field); f != nil {
		if k.Meaning != "" {
			return k, fmt.Errorf("its meaning is in its tag and in flag --%s", f.Name)
		}
		k.Flag, k.Meaning = f.Name, f.Usage
		if strings.Contains(f.Value.Type(), "|") {
			values = f.Value.Type()
		}
	} else if !field.InEach {
		return k, fmt.Errorf("no flag sets it")
	}
	if values != "" {
		k.Values = strings.Split(values, "|")
	}
	k.Default = textOf(field.Value)
	switch {
	case k.Meaning == "":
		return k, fmt.Errorf("nothing says what it means: tag doc, or the usage of its flag")
	case k.Type == "integer" && k.Unit == "":
		return k, fmt.Errorf("a number without a unit: tag unit")
	case k.measured() && !(tag.Get("range") == "any" || k.readable(k.Least) && (k.Most == "" || k.readable(k.Most))):
		return k, fmt.Errorf("range %q: tag range with LEAST.., LEAST..MOST or any", tag.Get("range"))
	case k.Type == "":
		return k, fmt.Errorf("no words for its type %v", field.Field.Type)
	}
	return k, nil
}

func (k Key) measured() bool { return k.Type == "integer" || k.Type == "duration" }

// readable tells whether limit is a value of a key that is measured.
func (k Key) readable(limit string) bool {
	if k.Type == "duration" {
		_, err := time.ParseDuration(limit)
		return err == nil
	}
	_, err := strconv.ParseInt(limit, 10, 64)
	return err == nil
}

// flagOf is the flag that sets field, nil if there is none: it has the key's name with hyphens, or without the s of several.
func flagOf(flags *pflag.FlagSet, field daemon.ConfigField) *pflag.Flag {
	if field.InEach {
		return nil
	}
	name := strings.ReplaceAll(strings.Join(field.Key, "-"), "_", "-")
	f := flags.Lookup(name)
	if f == nil {
		f = flags.Lookup(strings.TrimSuffix(name, "s"))
	}
	if f == nil {
		return nil
	}
	// pflag's values are pointers to what they set, but for lists.
	v := field.Value
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Slice && reflect.ValueOf(f.Value).Pointer() != v.Addr().Pointer() {
		return nil
	}
	return f
}

// typeOf says what a value of t is in the file.
func typeOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if _, text := reflect.New(t).Interface().(interface{ UnmarshalText([]byte) error }); text {
		return "string"
	}
	if t == reflect.TypeFor[time.Duration]() {
		return "duration"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "list of strings"
		}
	case reflect.Map:
		if t.Elem().Kind() == reflect.String {
			return "table of strings"
		}
	}
	if v := reflect.New(t).Elem(); v.CanInt() || v.CanUint() {
		return "integer"
	}
	return ""
}

// textOf is v as it is written in the file, without quotes; nothing for what is zero.
func textOf(v reflect.Value) string {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		return fmt.Sprint(v.Elem())
	}
	if v.IsZero() || v.Kind() == reflect.Map {
		return ""
	}
	if d, ok := v.Interface().(time.Duration); ok {
		text := d.String()
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zero) {
				text = text[:len(text)-2]
			}
		}
		return text
	}
	if v.CanInt() {
		return fmt.Sprint(v.Int())
	}
	if v.CanUint() {
		return fmt.Sprint(v.Uint())
	}
	if s, ok := v.Addr().Interface().(fmt.Stringer); ok {
		return s.String()
	}
	return fmt.Sprint(v)
}

// inBytes adds to a number of bytes what it is in larger units.
func (k Key) inBytes(number string) string {
	var n block.Size
	if _, err := fmt.Sscan(number, &n); err != nil || n < block.KiB || !strings.HasPrefix(k.Unit, "bytes") {
		return number
	}
	return fmt.Sprintf("%s (%v)", number, n)
}
