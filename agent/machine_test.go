package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/internal/block"
)

// TestMachineID makes machines out of what their firmware says.
func TestMachineID(t *testing.T) {
	machine := func(attrs map[string]string) block.Digest {
		t.Helper()
		root := t.TempDir()
		for name, text := range attrs {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return MachineID(filepath.Join(root, "sys"), filepath.Join(root, "proc"))
	}
	const uuid, board, product, tree = "sys/class/dmi/id/product_uuid", "sys/class/dmi/id/board_serial", "sys/class/dmi/id/product_serial", "proc/device-tree/serial-number"
	one := map[string]string{uuid: "ec2f4a10-5b1c-4b7e-9d51-0a1b2c3d4e5f\n", board: "B1\n"}
	for name, c := range map[string]struct {
		attrs map[string]string
		known bool
		same  bool // as one
	}{
		"itself":                 {one, true, true},
		"upper case":             {map[string]string{uuid: "EC2F4A10-5B1C-4B7E-9D51-0A1B2C3D4E5F\n", board: "B1"}, true, true},
		"another board, same VM": {map[string]string{uuid: one[uuid], board: "B2"}, true, true},
		"new network cards":      {map[string]string{uuid: one[uuid], board: "B1", "sys/class/net/eth0/address": "02:00:00:00:00:01"}, true, true},
		"a clone":                {map[string]string{uuid: "ec2f4a10-5b1c-4b7e-9d51-0a1b2c3d4e60", board: "B1"}, true, false},
		"serials only":           {map[string]string{board: "B1", product: "P1"}, true, false},
		"a device tree":          {map[string]string{tree: "100000001234abcd\x00"}, true, false},
		"nothing":                {nil, false, false},
		"a filler and a serial":  {map[string]string{uuid: "03000200-0400-0500-0006-000700080009", board: "B1"}, true, false},
		"fillers":                {map[string]string{uuid: "00000000-0000-0000-0000-000000000000", board: "To be filled by O.E.M.", product: "Default string"}, false, false},
		"all ones":               {map[string]string{uuid: "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", board: " None "}, false, false},
	} {
		got := machine(c.attrs)
		if known := got != (block.Digest{}); known != c.known || (got == machine(one)) != c.same {
			t.Errorf("%s: %v", name, got)
		}
	}
}
