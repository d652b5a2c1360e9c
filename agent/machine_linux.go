package agent

import (
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

// MachineID is a digest of what tells this machine from a copy of it, made from what the firmware says below sys and proc
// (/sys and /proc on a live host); zero where the firmware says nothing. It stays over reboots, and over every change of
// disks, network cards and addresses: a changed MAC must not end replication. A hypervisor gives a clone another UUID.
//
// In this order the first that is there counts: the UUID of the SMBIOS, the serial of board and system, a device tree's.
func MachineID(sys, proc string) block.Digest {
	dmi := filepath.Join(sys, "class/dmi/id")
	if id := firmwareText(dmi, "product_uuid"); id != "" {
		return codec.ChunkDigest([]byte("smbios uuid " + strings.ToLower(id)))
	}
	board, product := firmwareText(dmi, "board_serial"), firmwareText(dmi, "product_serial")
	if board != "" || product != "" {
		return codec.ChunkDigest([]byte("smbios serials " + board + " " + product))
	}
	if serial := firmwareText(filepath.Join(proc, "device-tree"), "serial-number"); serial != "" {
		return codec.ChunkDigest([]byte("device tree " + serial))
	}
	return block.Digest{}
}

// fillers are what firmware says where nobody filled a field in: the same on every board of a make.
var fillers = []string{
	"", "none", "n/a", "not specified", "not applicable", "unknown", "default string", "system serial number", "base board serial number",
	"to be filled by o.e.m.", "to be filled by o.e.m", "o.e.m.", "chassis serial number", "invalid", "empty", "0123456789", "123456789",
	"03000200-0400-0500-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc",
}

// firmwareText is an attribute of the firmware, "" where it is missing or says nothing.
func firmwareText(dir, attr string) string {
	text := strings.TrimSpace(strings.Trim(sysfsText(dir, attr), "\x00"))
	for _, f := range fillers {
		if strings.EqualFold(text, f) {
			return ""
		}
	}
	if strings.Trim(text, "0-. ") == "" || strings.Trim(strings.ToLower(text), "f-") == "" {
		return ""
	}
	return text
}
