package main

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"strings"
)

// agentBytes is the most that the agent's binary may have: it goes onto every protected host, and all of it is locked in memory.
const agentBytes = 15_000_000

// notInAgent are modules and packages that the agent must not hold: what talks to a cloud or to a database is the receiver's and the
// site's business, and each would be one more thing to trust on every protected host.
var notInAgent = []string{"github.com/aws/", "go.etcd.io/", "database/sql", "modernc.org/sqlite", "github.com/mattn/go-sqlite3", "github.com/jackc/", "github.com/lib/pq", "github.com/go-sql-driver/"}

// forbidden is the first of these import or module paths that the agent must not hold, "" if there is none.
func forbidden(paths []string) string {
	for _, p := range paths {
		for _, no := range notInAgent {
			if strings.HasPrefix(p+"/", strings.TrimSuffix(no, "/")+"/") {
				return p
			}
		}
	}
	return ""
}

// check holds that a binary may be packaged: it needs no library of the host, and the agent is small and free of what it must not
// hold.
func check(path string, info *buildinfo.BuildInfo) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: it names an interpreter", path)
		}
	}
	if !strings.HasSuffix(info.Path, "/understudy-agent") {
		return nil
	}
	stat, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	if stat.Size() > agentBytes {
		return fmt.Errorf("%s has %d bytes, %d at most", path, stat.Size(), agentBytes)
	}
	var paths []string
	for _, dep := range info.Deps {
		paths = append(paths, dep.Path)
	}
	if p := forbidden(paths); p != "" {
		return fmt.Errorf("%s holds %s: the agent must be free of it", path, p)
	}
	return nil
}
