package support

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Config is what a TOML configuration sets, a key a line. Only values of the keys that are listed, those of tables as table.key, are shown, and
// they too as Text; a key that nobody has thought of is one that may hold a secret. Comments are left out.
func (r *Redactor) Config(text string, shown []string) string {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		var where toml.ParseError
		if errors.As(err, &where) { // not its message: that quotes the file
			return fmt.Sprintf("# not shown: it is no TOML from line %d on\n", where.Position.Line)
		}
		return "# not shown: it is no TOML\n"
	}
	var b strings.Builder
	r.table(&b, "", "", tree, shown)
	return b.String()
}

// table shows one; path is where it is, prefix that with the number among several.
func (r *Redactor) table(b *strings.Builder, path, prefix string, t map[string]any, shown []string) {
	for _, key := range slices.Sorted(maps.Keys(t)) {
		switch v := t[key].(type) {
		case map[string]any:
			r.table(b, path+key+".", prefix+key+".", v, shown)
		case []map[string]any:
			for i, one := range v {
				r.table(b, path+key+".", fmt.Sprintf("%s%s.%d.", prefix, key, i), one, shown)
			}
		default:
			value := gone
			if slices.Contains(shown, path+key) {
				raw, err := json.Marshal(v)
				if err != nil {
					raw = []byte(gone)
				}
				value = string(r.Text(raw))
			}
			fmt.Fprintf(b, "%s%s = %s\n", r.Text([]byte(prefix)), r.Text([]byte(key)), value)
		}
	}
}
