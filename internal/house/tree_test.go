package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// module is the import path of this repository.
const module = "github.com/understudy-dr/understudy"

// source is one parsed Go file.
type source struct {
	path string // below the root, with slashes
	file *ast.File
	fset *token.FileSet
}

// pkg is the folder of the file: its package's path below the module.
func (s source) pkg() string { return path.Dir(s.path) }

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) line(p token.Pos) int { return s.fset.Position(p).Line }

// imports are the paths the file imports, with their lines.
func (s source) imports() map[string]int {
	found := map[string]int{}
	for _, spec := range s.file.Imports {
		found[strings.Trim(spec.Path.Value, `"`)] = s.line(spec.Pos())
	}
	return found
}

// finding is one broken rule.
type finding struct {
	path string
	line int
	text string
}

func (f finding) String() string { return fmt.Sprintf("%s:%d: %s", f.path, f.line, f.text) }

func parse(name, text string) (source, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	return source{path: name, file: file, fset: fset}, err
}

// tree parses every Go file of the repository but testdata.
func tree(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	var all []source
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && file != root && (name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		s, err := parse(filepath.ToSlash(rel), string(text))
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 40 {
		t.Fatalf("found %d files: that is not the whole repository", len(all))
	}
	return all
}

// rules are all checks, by name. Each takes the whole tree, or a part of it that stands for a tree.
var rules = map[string]func([]source) []finding{
	"imports":   checkImports,
	"std":       checkGround,
	"doc":       checkDocs,
	"functions": checkFunctions,
	"files":     checkFiles,
	"names":     checkNames,
	"init":      checkInit,
	"blank":     checkBlank,
}

func TestHouse(t *testing.T) {
	all := tree(t)
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			found := rule(all)
			sort.Slice(found, func(i, j int) bool { return found[i].String() < found[j].String() })
			for _, f := range found {
				t.Error(f)
			}
		})
	}
}
