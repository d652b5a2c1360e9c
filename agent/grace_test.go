package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGrace: the switch is set around a freeze and taken back, and what somebody else has set is left alone.
func TestGrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rcu_expedited")
	for _, row := range []struct{ name, before, during, after string }{
		{"ours", "0\n", "1", "0"},
		{"somebody else's", "1\n", "1", "1"},
	} {
		if err := os.WriteFile(path, []byte(row.before), 0o600); err != nil {
			t.Fatal(err)
		}
		value := func() string {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(b))
		}
		g := openGrace(path)
		for range 2 {
			g.hurry()
			if got := value(); got != row.during {
				t.Errorf("%s: %q while frozen, want %q", row.name, got, row.during)
			}
			g.rest()
			if got := value(); got != row.after {
				t.Errorf("%s: %q after the thaw, want %q", row.name, got, row.after)
			}
		}
		g.close()
	}
	none := openGrace(path + "-none")
	none.hurry()
	none.rest()
	none.adopt()
	none.close()
	(*grace)(nil).hurry()
	(*grace)(nil).rest()
}
