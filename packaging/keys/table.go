package keys

import (
	"fmt"
	"os"
	"strings"
)

// Table is a table of keys in Markdown.
func Table(all []Key) string {
	var b strings.Builder
	b.WriteString("| key | flag | type | unit | default | allowed | meaning | a change takes |\n|---|---|---|---|---|---|---|---|\n")
	for _, k := range all {
		name := k.Name
		if k.Table != "" {
			name = k.Table + " " + name[strings.LastIndex(name, ".")+1:]
		}
		takes := "restart"
		if k.Reload {
			takes = "reload"
		}
		cells := []string{code(name), code(dashed(k.Flag)), k.Type, k.Unit, k.showDefault(), k.showAllowed(), k.Meaning, takes}
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(c, "|", `\|`)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func dashed(flag string) string {
	if flag == "" {
		return ""
	}
	return "--" + flag
}

func (k Key) showDefault() string {
	switch {
	case k.Default != "" && k.Type == "integer":
		return k.inBytes(k.Default)
	case k.Default != "":
		return code(k.Default)
	case k.Type == "integer" && k.Zero != "":
		return "0: " + k.Zero
	case k.Type == "integer":
		return "0"
	case k.Zero != "":
		return k.Zero
	}
	return "none"
}

func (k Key) showAllowed() string {
	switch {
	case k.Values != nil:
		return code(strings.Join(k.Values, "`, `"))
	case k.Type == "boolean":
		return "`true`, `false`"
	case k.Least != "" && k.Most != "":
		return k.inBytes(k.Least) + " to " + k.inBytes(k.Most)
	case k.Least != "":
		return k.inBytes(k.Least) + " or more"
	case k.measured():
		return "any"
	}
	return ""
}

// Hold holds that the file at path has the table between the lines that begin and end the part named name. With write it puts it
// there instead.
func Hold(path, name, table string, write bool) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+": generated -->\n", "<!-- "+name+": end -->\n"
	before, rest, found := strings.Cut(string(raw), begin)
	have, after, ended := strings.Cut(rest, end)
	switch {
	case !found || !ended:
		return fmt.Errorf("%s has no lines %q and %q", path, begin, end)
	case have == table:
		return nil
	case !write:
		return fmt.Errorf("the table of %s in %s is not what the code has: run make docs-tables", name, path)
	}
	return os.WriteFile(path, []byte(before+begin+table+end+after), 0o644)
}
