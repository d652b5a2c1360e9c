package house

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

const (
	maxFunction = 70  // lines, from func to its closing brace
	maxFile     = 450 // lines
)

// long are functions and files that were too long when the rule was made, with their length: "path" or "path:Function". They
// may only shrink. It is empty, and stays so.
var long = map[string]int{}

func checkFunctions(all []source) []finding {
	var found []finding
	for _, s := range all {
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := s.line(fn.End()) - s.line(fn.Pos()) + 1
			if limit := max(maxFunction, long[s.path+":"+fn.Name.Name]); n > limit {
				found = append(found, finding{s.path, s.line(fn.Pos()), fmt.Sprintf("function %s has %d lines, %d at most: split it by what it does", fn.Name.Name, n, limit)})
			}
		}
	}
	return found
}

func checkFiles(all []source) []finding {
	var found []finding
	for _, s := range all {
		n := s.fset.File(s.file.FileStart).LineCount()
		if limit := max(maxFile, long[s.path]); n > limit {
			found = append(found, finding{s.path, n, fmt.Sprintf("the file has %d lines, %d at most: split it by subject", n, limit)})
		}
	}
	return found
}

// checkDocs holds that every package says what it is, in a comment that begins as godoc wants it.
func checkDocs(all []source) []finding {
	docs, first := map[string]string{}, map[string]source{}
	for _, s := range all {
		if strings.HasSuffix(s.file.Name.Name, "_test") {
			continue
		}
		if _, ok := first[s.pkg()]; !ok {
			first[s.pkg()] = s
		}
		if s.file.Doc != nil && !s.test() {
			docs[s.pkg()] += s.file.Doc.Text()
		}
	}
	var found []finding
	for pkg, s := range first {
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			want = "Command " + path.Base(pkg) + " "
		}
		if !strings.HasPrefix(docs[pkg], want) {
			found = append(found, finding{s.path, 1, fmt.Sprintf("package %s needs a doc comment that begins with %q", pkg, want)})
		}
	}
	return found
}

func checkNames(all []source) []finding {
	var found []finding
	for _, s := range all {
		for _, name := range append(strings.Split(s.pkg(), "/"), s.file.Name.Name) {
			if slices.Contains([]string{"pkg", "common", "utils", "util", "types", "helpers", "misc"}, name) {
				found = append(found, finding{s.path, 1, "the name " + name + " says nothing: name the package after what it holds"})
				break
			}
		}
	}
	return found
}

func checkInit(all []source) []finding {
	var found []finding
	for _, s := range all {
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, finding{s.path, s.line(fn.Pos()), "no func init: main makes the parts and hands them in"})
			}
		}
	}
	return found
}

// checkBlank forbids imports for their side effects; a test may want one.
func checkBlank(all []source) []finding {
	var found []finding
	for _, s := range all {
		if s.test() || s.pkg() == "." {
			continue
		}
		for _, spec := range s.file.Imports {
			if spec.Name != nil && (spec.Name.Name == "_" && !embeds(s, spec)) {
				found = append(found, finding{s.path, s.line(spec.Pos()), "no import for its side effects: what a package needs is handed to it by name"})
			}
		}
	}
	return found
}

// embeds tells whether the import is what a go:embed directive asks for.
func embeds(s source, spec *ast.ImportSpec) bool {
	if spec.Path.Value != `"embed"` {
		return false
	}
	for _, g := range s.file.Comments {
		for _, c := range g.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return true
			}
		}
	}
	return false
}
