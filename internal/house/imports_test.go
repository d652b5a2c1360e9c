package house

import (
	"fmt"
	"slices"
	"strings"
)

// floor is one row of the table of who may import whom. A package belongs to the row with the longest prefix of its path;
// its own subpackages are of its own row, and free to it.
type floor struct {
	pkgs   []string // paths below the module, with all that is below them
	may    []string // of this module; "*" is everything
	reason string   // why nothing else
}

// table is who may import whom. Highest floor first.
var table = []floor{
	{
		[]string{"cmd", "bench", "fuzz", "packaging"},
		[]string{"*"},
		"they put the parts together",
	},
	{
		[]string{"agent"},
		[]string{"agent/capture", "internal/link", "internal/wire", "internal/block", "internal/codec", "internal/durable", "internal/metrics"},
		"the source role must run without the target role, and cmd hands it its tracker: so it builds where there is no BPF, and its binary holds no target code",
	},
	{
		[]string{"receiver"},
		[]string{"receiver/journal", "receiver/volume", "internal/link", "internal/wire", "internal/block", "internal/codec", "internal/durable", "internal/metrics"},
		"the target role must run without the source role; the two agree on the wire alone, never on each other's code",
	},
	{
		[]string{"tunnel", "site"},
		[]string{"internal/link", "internal/wire", "internal/block"},
		"they steer and forward; what they know of disks comes over the link",
	},
	{
		[]string{"internal/doctor"},
		[]string{"internal/link", "internal/wire"},
		"its checks are those that agent, receiver and operator share; what only one of them can know is added by cmd",
	},
	{
		[]string{"internal/support"},
		nil,
		"it packs and redacts what it is handed; were it to know where secrets come from, it would miss those of others",
	},
	{
		[]string{"internal/link"},
		[]string{"internal/wire", "internal/block", "internal/durable", "internal/metrics"},
		"a session carries messages; who sends them, and where blocks live, is not its business",
	},
	{
		[]string{"internal/wire"},
		[]string{"internal/block"},
		"bytes in, bytes out: a parser that can reach a disk or a socket can't be fuzzed alone",
	},
	{
		[]string{"internal/codec"},
		[]string{"internal/block"},
		"it encodes one frame; it is used on every floor above and so depends on none",
	},
	{
		[]string{"agent/capture"},
		[]string{"internal/block"},
		"a tracker knows which blocks changed, and nothing of where they go",
	},
	{
		[]string{"nbd"},
		[]string{"internal/block"},
		"it shows any Device; which one is up to cmd",
	},
	{
		[]string{"fuse"},
		[]string{"internal/block"},
		"it shows any Device; which one is up to cmd",
	},
	{
		[]string{"receiver/journal"},
		[]string{"internal/block"},
		"the journal's crash argument must hold for any volume and any codec: both come in through interfaces",
	},
	{
		[]string{"receiver/volume"},
		[]string{"internal/block"},
		"a volume holds blocks; it does not know that a journal folds into it",
	},
	{
		[]string{"internal/block"},
		nil,
		"it is the ground: whatever it imported, everything would depend on",
	},
	{
		[]string{"internal/daemon"},
		nil,
		"it serves every command alike, and knows nothing of disks",
	},
	{
		[]string{"internal/metrics"},
		nil,
		"it shows numbers; what they are of is up to who registers them",
	},
	{
		[]string{"internal/durable"},
		nil,
		"it replaces a file; what is in it is its users' business",
	},
	{
		[]string{"internal/house"},
		nil,
		"it reads the source; were it to import it, it could not judge a tree that does not build",
	},
}

// alsoInTests is what tests of floors 2 and up may import on top: they need real frames, and disks that are real, that
// forget and that fail.
var alsoInTests = []string{"internal/codec", "receiver/volume", "receiver/volume/volumetest", "bench/testbed"}

// handedIn are packages that only cmd and the like import although a row names their parent: the core must not choose them.
var handedIn = map[string]string{
	"agent/capture/ebpf":  "the tracker is handed in by cmd",
	"agent/capture/nbd":   "the tracker is handed in by cmd",
	"receiver/volume/ebs": "AWS code is handed in by cmd: it is never in the agent's binary, and the receiver runs without it",
}

func within(pkg, prefix string) bool { return pkg == prefix || strings.HasPrefix(pkg, prefix+"/") }

// rowOf is the row of a package, and the path in the row that it belongs to.
func rowOf(pkg string) (row *floor, home string) {
	for i := range table {
		for _, p := range table[i].pkgs {
			if within(pkg, p) && len(p) > len(home) {
				row, home = &table[i], p
			}
		}
	}
	return row, home
}

func checkImports(all []source) []finding {
	var found []finding
	for _, s := range all {
		row, home := rowOf(s.pkg())
		if row == nil {
			if s.pkg() != "." { // the root holds no code, only go.mod's keeper while the house is being built
				found = append(found, finding{s.path, 1, "package " + s.pkg() + " is in no row of the import table"})
			}
			continue
		}
		for imported, line := range s.imports() {
			to, ours := strings.CutPrefix(imported, module+"/")
			if ours && !allowed(s, row, home, to) {
				found = append(found, finding{s.path, line, fmt.Sprintf("%s must not import %s: %s", s.pkg(), to, because(row, to))})
			}
		}
	}
	return found
}

func because(row *floor, to string) string {
	for p, why := range handedIn {
		if within(to, p) {
			return why
		}
	}
	return row.reason
}

func allowed(s source, row *floor, home, to string) bool {
	if slices.Contains(row.may, "*") {
		return true
	}
	if _, toHome := rowOf(to); toHome == home {
		for p := range handedIn {
			if within(to, p) && !within(s.pkg(), p) {
				return false
			}
		}
		return true
	}
	if s.test() && slices.Contains(alsoInTests, to) && home != "internal/block" && home != "internal/daemon" {
		return true
	}
	for p := range handedIn {
		if within(to, p) {
			return false
		}
	}
	return slices.ContainsFunc(row.may, func(p string) bool { return within(to, p) })
}

// checkGround holds internal/block to the standard library; a test may use rapid.
func checkGround(all []source) []finding {
	var found []finding
	for _, s := range all {
		if s.pkg() != "internal/block" {
			continue
		}
		for imported, line := range s.imports() {
			first, _, _ := strings.Cut(imported, "/")
			if strings.Contains(first, ".") && imported != module+"/internal/block" && (!s.test() || imported != "pgregory.net/rapid") {
				found = append(found, finding{s.path, line, "internal/block must not import " + imported + ": the ground needs the standard library only"})
			}
		}
	}
	return found
}
