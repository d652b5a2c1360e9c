package house

import (
	"strings"
	"testing"
)

// TestPlanted plants a violation of every rule and sees it found, beside what looks alike and is allowed: a rule that can't
// fail proves nothing.
func TestPlanted(t *testing.T) {
	imp := func(pkg string) string {
		return "// Package p is p.\npackage p\n\nimport \"" + module + "/" + pkg + "\"\n"
	}
	body := func(n int) string { return "package p\n\nfunc f() {\n" + strings.Repeat("\n", n-2) + "}\n" }
	for _, row := range []struct{ rule, name, path, text, want string }{
		{"imports", "agent to receiver", "agent/x.go", imp("receiver"), "agent must not import receiver: the source role must run without"},
		{"imports", "agent to journal", "agent/x.go", imp("receiver/journal"), "agent must not import receiver/journal"},
		{"imports", "receiver to agent", "receiver/x.go", imp("agent"), "the two agree on the wire alone"},
		{"imports", "receiver to capture", "receiver/x.go", imp("agent/capture"), "receiver must not import"},
		{"imports", "agent to ebpf", "agent/x.go", imp("agent/capture/ebpf"), "the tracker is handed in by cmd"},
		{"imports", "agent test to ebpf", "agent/x_test.go", imp("agent/capture/ebpf"), "the tracker is handed in by cmd"},
		{"imports", "capture to ebpf", "agent/capture/x.go", imp("agent/capture/ebpf"), "the tracker is handed in by cmd"},
		{"imports", "receiver to ebs", "receiver/x.go", imp("receiver/volume/ebs"), "AWS code"},
		{"imports", "link to codec", "internal/link/x.go", imp("internal/codec"), "a session carries messages"},
		{"imports", "link to agent", "internal/link/pki/x.go", imp("agent"), "internal/link/pki must not import agent"},
		{"imports", "wire to link", "internal/wire/x.go", imp("internal/link"), "can't be fuzzed alone"},
		{"imports", "wire to codec", "internal/wire/x.go", imp("internal/codec"), "internal/wire must not import internal/codec"},
		{"imports", "codec to wire", "internal/codec/x.go", imp("internal/wire"), "internal/codec must not import"},
		{"imports", "capture to agent", "agent/capture/x.go", imp("agent"), "agent/capture must not import agent"},
		{"imports", "capture to wire", "agent/capture/ebpf/x.go", imp("internal/wire"), "must not import internal/wire"},
		{"imports", "journal to volume", "receiver/journal/x.go", imp("receiver/volume"), "any volume and any codec"},
		{"imports", "journal to codec", "receiver/journal/x.go", imp("internal/codec"), "any volume and any codec"},
		{"imports", "volume to journal", "receiver/volume/x.go", imp("receiver/journal"), "does not know that a journal"},
		{"imports", "nbd to fuse", "nbd/x.go", imp("fuse"), "shows any Device"},
		{"imports", "fuse to nbd", "fuse/x.go", imp("nbd"), "shows any Device"},
		{"imports", "site to agent", "site/x.go", imp("agent"), "steer and forward"},
		{"imports", "ground to codec in a test", "internal/block/x_test.go", imp("internal/codec"), "it is the ground"},
		{"imports", "daemon to block", "internal/daemon/x.go", imp("internal/block"), "knows nothing of disks"},
		{"imports", "doctor to agent", "internal/doctor/x.go", imp("agent"), "what only one of them can know is added by cmd"},
		{"imports", "floor below to cmd", "internal/link/x.go", imp("cmd/understudy"), "must not import cmd/understudy"},
		{"imports", "likeness of a prefix", "agent/x.go", imp("internal/blocks"), "must not import internal/blocks"},
		{"imports", "unknown package", "lab/x.go", imp("internal/block"), "lab is in no row"},
		{"imports", "agent to capture", "agent/x.go", imp("agent/capture"), ""},
		{"imports", "cmd to all", "cmd/understudy/x.go", imp("agent/capture/ebpf"), ""},
		{"imports", "own subpackage", "receiver/journal/x_test.go", imp("receiver/journal/journaltest"), ""},
		{"imports", "ebpf to capture", "agent/capture/ebpf/x.go", imp("agent/capture"), ""},
		{"imports", "ebpf to its own", "agent/capture/ebpf/x.go", imp("agent/capture/ebpf/prog"), ""},
		{"imports", "codec in a test", "receiver/journal/x_test.go", imp("internal/codec"), ""},
		{"imports", "volume in a test", "receiver/journal/x_test.go", imp("receiver/volume/volumetest"), ""},
		{"std", "itself in a test", "internal/block/x_test.go", "package p_test\nimport \"" + module + "/internal/block\"\n", ""},
		{"std", "module", "internal/block/x.go", "package p\nimport \"golang.org/x/sys/unix\"\n", "the standard library only"},
		{"std", "module in a test", "internal/block/x_test.go", "package p\nimport \"golang.org/x/sys/unix\"\n", "the standard library only"},
		{"std", "rapid", "internal/block/x.go", "package p\nimport \"pgregory.net/rapid\"\n", "the standard library only"},
		{"std", "rapid in a test", "internal/block/x_test.go", "package p\nimport \"pgregory.net/rapid\"\n", ""},
		{"std", "syscall", "internal/block/x.go", "package p\nimport \"syscall\"\n", ""},
		{"doc", "none", "agent/x.go", "package agent\n", "begins with \"Package agent \""},
		{"doc", "other words", "agent/x.go", "// The agent.\npackage agent\n", "begins with"},
		{"doc", "command", "cmd/understudy/x.go", "// Package main is.\npackage main\n", "\"Command understudy \""},
		{"doc", "in a test only", "agent/x_test.go", "// Package agent is.\npackage agent\n", "begins with"},
		{"doc", "good", "agent/x.go", "// Package agent is.\npackage agent\n", ""},
		{"functions", "71", "agent/x.go", body(71), "function f has 71 lines, 70 at most"},
		{"functions", "71 in a test", "agent/x_test.go", body(71), "71 lines"},
		{"functions", "70", "agent/x.go", body(70), ""},
		{"files", "451", "agent/x.go", "package p\n" + strings.Repeat("//\n", 449) + "//", "the file has 451 lines"},
		{"files", "450", "agent/x.go", "package p\n" + strings.Repeat("//\n", 448) + "//", ""},
		{"names", "folder", "internal/utils/x.go", "package good\n", "utils says nothing"},
		{"names", "name", "internal/good/x.go", "package common\n", "common says nothing"},
		{"names", "pkg", "pkg/agent/x.go", "package agent\n", "pkg says nothing"},
		{"names", "good", "internal/block/x.go", "package block\n", ""},
		{"init", "init", "agent/x.go", "package p\nfunc init() {}\n", "no func init"},
		{"init", "method", "agent/x.go", "package p\ntype t int\nfunc (t) init() {}\n", ""},
		{"blank", "blank", "agent/x.go", "package p\nimport _ \"net/http/pprof\"\n", "side effects"},
		{"blank", "embed without directive", "agent/x.go", "package p\nimport _ \"embed\"\n", "side effects"},
		{"blank", "embed", "agent/x.go", "package p\nimport _ \"embed\"\n//go:embed x\nvar x string\n", ""},
		{"blank", "test", "agent/x_test.go", "package p\nimport _ \"net/http/pprof\"\n", ""},
	} {
		t.Run(row.rule+"/"+row.name, func(t *testing.T) { plant(t, row.rule, row.path, row.text, row.want) })
	}
}

func plant(t *testing.T, rule, path, text, want string) {
	s, err := parse(path, text)
	if err != nil {
		t.Fatal(err)
	}
	found := rules[rule]([]source{s})
	switch {
	case want == "" && len(found) > 0:
		t.Errorf("allowed, but: %v", found)
	case want != "" && (len(found) != 1 || !strings.Contains(found[0].String(), want)):
		t.Errorf("found %v, want one with %q", found, want)
	}
}

// TestEveryArrowHasAReason holds the table itself: a row without a reason, or a package in two rows, would be a mistake.
func TestEveryArrowHasAReason(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range table {
		if row.reason == "" {
			t.Errorf("the row of %v gives no reason", row.pkgs)
		}
		for _, p := range row.pkgs {
			if seen[p] {
				t.Errorf("%s is in two rows", p)
			}
			seen[p] = true
		}
	}
	if len(long) > 0 {
		t.Errorf("%d exceptions from the lengths: %v", len(long), long)
	}
}
