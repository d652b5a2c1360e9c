package agent

import (
	"encoding/binary"
	"path/filepath"
	"slices"
	"testing"
)

// TestLeftFrozen reads the record of an agent that lives, and of one that is gone.
func TestLeftFrozen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frozen")
	look := func() Left {
		t.Helper()
		left, err := LeftFrozen(path)
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := look(); left.Alive || left.Frozen != nil {
		t.Errorf("without a record: %+v", left)
	}
	r, err := openRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.list([]Mount{{Path: "/a"}, {Path: "/b"}, {Path: "/c"}}); err != nil {
		t.Fatal(err)
	}
	if left := look(); !left.Alive || left.Frozen != nil || left.Hurrying {
		t.Errorf("before a freeze: %+v", left)
	}
	r.hold(0).set(holdFrozen)
	r.hold(2).set(holdFreezing)
	r.word(recordGrace).Store(1)
	if left := look(); !left.Alive || !slices.Equal(left.Frozen, []string{"/a", "/c"}) || !left.Hurrying {
		t.Errorf("in a freeze: %+v", left)
	}
	binary.NativeEndian.PutUint64(r.page[recordStart:], 1) // another process had the number
	if left := look(); left.Alive || len(left.Frozen) != 2 {
		t.Errorf("of an agent that is gone: %+v", left)
	}
	r.page[recordBoot] ^= 1
	if left := look(); left.Frozen != nil {
		t.Errorf("of an earlier boot: %+v", left)
	}
	r.page[recordBoot] ^= 1
	binary.NativeEndian.PutUint32(r.page[len(recordMagic):], recordVersion+1)
	if _, err := LeftFrozen(path); err == nil {
		t.Error("a record of an unknown version was read")
	}
}
