package ebpf

import (
	"fmt"
	"path/filepath"

	"github.com/understudy-dr/understudy/internal/block"
)

// CheckDevice tells why a device can't be tracked, nil if it can. It attaches nothing.
func CheckDevice(path string) error {
	_, err := lookAt(path)
	return err
}

// Health is the state of a disk's pins, as a reader sees it: nothing is changed.
type Health struct {
	Sets   int    // that a next agent could take over; more than one while one replaces another
	Broken string // why there is none, "" if there is
}

// Examine looks at the pins of a disk under pinRoot ("": the default).
func Examine(pinRoot string, id block.DiskID) (Health, error) {
	if pinRoot == "" {
		pinRoot = defaultPinRoot
	}
	var h Health
	dirs, err := filepath.Glob(filepath.Join(pinRoot, id.String(), "[0-9]*"))
	if err != nil {
		return h, err
	}
	for _, dir := range dirs {
		p := &pinned{dir: dir}
		err := p.open()
		switch {
		case err != nil:
			h.Broken = fmt.Sprintf("%s can't be opened: %v", dir, err)
		case p.head.Ready != 1:
			h.Broken = fmt.Sprintf("%s was never finished", dir)
		case !p.whole():
			h.Broken = fmt.Sprintf("not all of the %d programs of %s are pinned", len(p.head.pins()), dir)
		default:
			h.Sets++
		}
		if err := p.close(); err != nil {
			return h, err
		}
	}
	if h.Sets > 0 {
		h.Broken = ""
	} else if h.Broken == "" {
		h.Broken = "nothing is pinned"
	}
	return h, nil
}
