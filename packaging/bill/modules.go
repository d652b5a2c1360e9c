package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
)

// module is one that a binary holds code of.
type module struct {
	path, version string
	licences      []licence
}

// licence is one file of a module.
type licence struct {
	file string
	ids  []string // SPDX; none for a notice, which goes with a licence
	text string
}

// modulesOf finds the modules of a binary, with the standard library as the first, and their licences.
func modulesOf(info *buildinfo.BuildInfo) ([]module, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find the standard library: %w", err)
	}
	std := module{path: "std", version: strings.TrimPrefix(strings.Fields(info.GoVersion)[0], "go")}
	if std.licences, err = licencesIn(strings.TrimSpace(string(root))); err != nil {
		return nil, fmt.Errorf("the standard library: %w", err)
	}
	all := []module{std}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		dir, err := sourceOf(dep)
		if err != nil {
			return nil, err
		}
		m := module{path: dep.Path, version: dep.Version}
		if m.licences, err = licencesIn(dir); err != nil {
			return nil, fmt.Errorf("%s %s: %w", m.path, m.version, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// sourceOf is where the source of a module lies, checked by go against go.sum.
func sourceOf(dep *debug.Module) (dir string, err error) {
	cmd := exec.Command("go", "mod", "download", "-json", dep.Path+"@"+dep.Version)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find %s %s: %w", dep.Path, dep.Version, err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil || found.Dir == "" {
		return "", fmt.Errorf("find %s %s: go says %q", dep.Path, dep.Version, bytes.TrimSpace(out))
	}
	return found.Dir, nil
}

// licenceFile is how a licence, or the notice that an Apache licence asks to be passed on, is named.
var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|notice|patents)(\.(md|txt|mit|bsd|apache))?$`)

// licencesIn reads the licences in a module's root.
func licencesIn(dir string) ([]licence, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []licence
	known := false
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		l := licence{file: e.Name(), ids: identify(string(text)), text: strings.TrimSpace(string(text)) + "\n"}
		known = known || len(l.ids) > 0
		found = append(found, l)
	}
	sort.Slice(found, func(i, j int) bool { return found[i].file < found[j].file })
	if !known {
		return nil, fmt.Errorf("no licence that is known in %s", dir)
	}
	return found, nil
}

// licenceWords are words that only one licence has. What may not be linked into an Apache-2.0 binary is not among them.
var licenceWords = []struct{ id, words string }{
	{"Apache-2.0", "Apache License Version 2.0"},
	{"MPL-2.0", "Mozilla Public License, version 2.0"},
	{"MPL-2.0", "Mozilla Public License Version 2.0"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"Unlicense", "This is free and unencumbered software released into the public domain"},
	{"CC0-1.0", "CC0 1.0 Universal"},
	{"BSD-3-Clause", "may be used to endorse or promote products derived from"},
	{"BSD-2-Clause", "Redistributions of source code must retain the above copyright notice"},
}

// identify finds the licences in a text, by their SPDX ids.
func identify(text string) (ids []string) {
	words := strings.Join(strings.Fields(text), " ")
	for _, l := range licenceWords {
		// The third clause is what makes one BSD licence the other.
		if strings.Contains(words, l.words) && !slices.Contains(ids, l.id) && !(l.id == "BSD-2-Clause" && slices.Contains(ids, "BSD-3-Clause")) {
			ids = append(ids, l.id)
		}
	}
	return ids
}
