package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// build builds a command as it is packaged, with extra environment.
func build(t *testing.T, command string, env ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), command)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", path, "../../cmd/"+command)
	cmd.Env = append(os.Environ(), append([]string{"CGO_ENABLED=0"}, env...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestEveryDependencyHasALicence: all modules of each command are in its bill, with an id each, and their texts in the file.
func TestEveryDependencyHasALicence(t *testing.T) {
	for _, command := range []string{"understudy-agent", "understudy-receiver", "understudy"} {
		t.Run(command, func(t *testing.T) {
			path, dir := build(t, command), t.TempDir()
			if err := run([]string{path}, "1.2.3", time.Unix(1e9, 0).UTC(), dir); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(dir, command+".cdx.json"))
			if err != nil {
				t.Fatal(err)
			}
			var b bom
			d := json.NewDecoder(bytes.NewReader(raw))
			d.DisallowUnknownFields()
			if err := d.Decode(&b); err != nil || b.Format != "CycloneDX" || b.Metadata.Timestamp != "2001-09-09T01:46:40Z" || b.Metadata.Component.Version != "1.2.3" {
				t.Fatalf("%v: %+v", err, b)
			}
			texts, err := os.ReadFile(filepath.Join(dir, command+".licences"))
			if err != nil {
				t.Fatal(err)
			}
			listed := map[string]bool{}
			for _, c := range b.Components {
				listed[c.Name] = len(c.Licences) > 0 && strings.Contains(string(texts), "\n"+c.Name+" "+c.Version+": ")
			}
			out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", "../../cmd/"+command).Output()
			if err != nil {
				t.Fatal(err)
			}
			modules := slices.Compact(slices.Sorted(slices.Values(strings.Fields(string(out)))))
			if len(modules) < 10 || !listed["std"] {
				t.Errorf("%d modules: the test sees too little", len(modules))
			}
			for _, m := range modules {
				if !listed[m] {
					t.Errorf("%s is not in the bill with its licence", m)
				}
			}
			if len(b.Components) != len(modules)+1 {
				t.Errorf("%d in the bill, %d modules and the standard library", len(b.Components), len(modules))
			}
		})
	}
}

// TestLicences: what is known and what is not.
func TestLicences(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004":                                                                   "Apache-2.0",
		"Redistributions of source code must retain the above copyright\nnotice":                                         "BSD-2-Clause",
		"Redistributions of source code must retain the above copyright notice; used to endorse":                         "BSD-2-Clause",
		"source code must retain the above copyright notice. may be used to endorse or promote products derived from it": "BSD-3-Clause",
		"GNU GENERAL PUBLIC LICENSE Version 3":                                                                           "",
		"Copyright 2020, all rights reserved":                                                                            "",
	} {
		if got := strings.Join(identify(text), ","); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	dir := t.TempDir()
	if _, err := licencesIn(dir); err == nil {
		t.Error("a module without a licence passes")
	}
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("ask me\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := licencesIn(dir); err == nil {
		t.Error("a licence that nobody knows passes")
	}
}

// TestWhatMayNotBePackaged: the agent holds neither AWS nor database code, is static and small; and each of these can be told.
func TestWhatMayNotBePackaged(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../../cmd/understudy-agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	if p := forbidden(packages); p != "" || len(packages) < 100 {
		t.Errorf("the agent holds %q, of %d packages", p, len(packages))
	}
	for _, p := range []string{"github.com/aws/aws-sdk-go-v2", "database/sql", "database/sql/driver", "go.etcd.io/bbolt"} {
		if forbidden([]string{"fmt", p}) != p {
			t.Errorf("%s passes", p)
		}
	}
	if p := forbidden([]string{"database/sqlx", "github.com/awsome/x"}); p != "" {
		t.Errorf("%s does not pass", p)
	}
	path := build(t, "understudy-agent")
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(path, info); err != nil {
		t.Error(err)
	}
	fat := *info
	fat.Deps = append(slices.Clone(info.Deps), info.Deps[0])
	copied := *info.Deps[0]
	copied.Path = "github.com/aws/smithy-go"
	fat.Deps[len(fat.Deps)-1] = &copied
	if err := check(path, &fat); err == nil || !strings.Contains(err.Error(), "free of it") {
		t.Errorf("AWS code: %v", err)
	}
	if err := os.Truncate(path, agentBytes+1); err != nil {
		t.Fatal(err)
	}
	if err := check(path, info); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too large: %v", err)
	}
	if err := check("/bin/ls", info); err == nil || !strings.Contains(err.Error(), "not static") {
		t.Errorf("a dynamic binary: %v", err)
	}
}
