// Command bill writes what packages tell of what is not ours: for each binary its bill of materials (CycloneDX 1.5, JSON), read from
// what the linker has put into it, and the text of every licence. A dependency without a licence that is known is an error, and so is
// a binary that must not be packaged as it is (check.go).
//
//	bill --epoch SECONDS --out FOLDER BINARY...
//
// For BINARY it writes FOLDER/NAME.cdx.json and FOLDER/NAME.licences. The same binaries give the same bytes.
package main

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	epoch := flag.Int64("epoch", 0, "the time to say, in seconds since 1970")
	version := flag.String("version", "", "version of the packages")
	out := flag.String("out", "", "folder to write to")
	flag.Parse()
	if err := run(flag.Args(), *version, time.Unix(*epoch, 0).UTC(), *out); err != nil {
		fmt.Fprintln(os.Stderr, "bill:", err)
		os.Exit(1)
	}
}

func run(binaries []string, version string, at time.Time, out string) error {
	for _, path := range binaries {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read what %s was built from: %w", path, err)
		}
		if err := check(path, info); err != nil {
			return err
		}
		modules, err := modulesOf(info)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		document, err := cyclonedx(name, version, at, info, modules)
		if err != nil {
			return err
		}
		for file, content := range map[string][]byte{name + ".cdx.json": document, name + ".licences": licences(name, modules)} {
			if err := os.WriteFile(filepath.Join(out, file), content, 0o644); err != nil {
				return fmt.Errorf("write bill: %w", err)
			}
		}
	}
	return nil
}
