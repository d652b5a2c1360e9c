package agent

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
)

// TestSplitCoversEverything: the parts follow each other without gap or overlap, are data or zero as they say, and no data
// part is larger than a frame or holds a zero unit at a unit's place.
func TestSplitCoversEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const unit = int(zeroUnit)
		buf := make([]byte, rapid.IntRange(1, 100).Draw(t, "units")*unit-rapid.IntRange(0, 3).Draw(t, "cut")*512)
		for i := 0; i < len(buf); i += unit {
			if rapid.IntRange(0, 2).Draw(t, "set") > 0 {
				buf[i+rapid.IntRange(0, min(unit, len(buf)-i)-1).Draw(t, "at")] = 1
			}
		}
		const base = block.Offset(1 << 30)
		pos := base
		err := split(base, buf, func(r block.Range, data []byte) error {
			if r.Off != pos || r.Empty() {
				t.Fatalf("part %v does not begin at %d", r, pos)
			}
			pos = r.End()
			got := buf[r.Off-base : r.End()-base]
			if data == nil {
				if !codec.IsZero(got) {
					t.Fatalf("part %v is said to be zero", r)
				}
				return nil
			}
			if !bytes.Equal(data, got) || r.Len > block.MaxFrameData {
				t.Fatalf("part %v: %d bytes of data", r, len(data))
			}
			for i := 0; i < len(data); i += unit {
				if codec.IsZero(data[i:min(i+unit, len(data))]) {
					t.Fatalf("part %v sends a unit of zeroes at %d", r, i)
				}
			}
			return nil
		})
		if err != nil || pos != base+block.Offset(len(buf)) {
			t.Fatalf("parts end at %d of %d: %v", pos-base, len(buf), err)
		}
	})
}

// TestNoteSurvivesATornWrite cuts each write of a note at every byte: what is read is the old note or the new one.
func TestNoteSurvivesATornWrite(t *testing.T) {
	mem := make([]byte, 4096)
	if got := readNote(mem); got != (note{}) {
		t.Fatalf("an empty memory reads as %+v", got)
	}
	var n note
	for step := range 4 {
		before := bytes.Clone(mem)
		old := readNote(mem)
		n.Synced, n.Size, n.Scanned = step%2 == 0, block.Size(step)<<30, block.Size(step)<<20
		n.Acked = tip{block.Seq(step), block.Digest{byte(step), 1}}
		n.Sealed = tip{block.Seq(step + 1), block.Digest{byte(step), 2}}
		n.write(mem)
		if got := readNote(mem); got != n {
			t.Fatalf("wrote %+v, read %+v", n, got)
		}
		for cut := range 2 * noteSlot {
			torn := append(bytes.Clone(mem[:cut]), before[cut:]...)
			if got := readNote(torn); got != n && got != old {
				t.Fatalf("torn at %d: read %+v, neither %+v nor %+v", cut, got, old, n)
			}
		}
	}
}

func TestSelectMounts(t *testing.T) {
	table := strings.Join([]string{
		`22 28 0:20 / /proc rw - proc proc rw`,
		`28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw`,
		`40 28 8:1 /srv /bind rw - ext4 /dev/sda1 rw`,
		`41 28 8:17 / /with\040space rw - xfs /dev/sdb1 rw`,
		`42 28 7:0 / /other rw - ext4 /dev/loop0 rw`,
		`43 28 8:18 / /boot/efi rw - vfat /dev/sdb2 rw`,
		`a line that is none`,
	}, "\n")
	got, err := selectMounts(nil, strings.NewReader(table), []string{"8:0", "8:1", "8:16", "8:17", "8:18"}, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{"/", "ext4", "8:1", "8:1", []string{"/bind"}, 0},
		{"/with space", "xfs", "8:17", "8:17", nil, 0},
		{"/boot/efi", "vfat", "8:18", "8:18", nil, 0},
	}
	if len(got) != len(want) {
		t.Fatalf("mounts %v, want %v", got, want)
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("mount %d is %v, want %v", i, got[i], want[i])
		}
	}
	if got[2].Freezable() || !got[1].Freezable() {
		t.Error("vfat can't be frozen, xfs can")
	}
}

// TestPartsEnd: a part ends by size or by age, and by age also where all of it is zeroes; one that holds nothing does not.
func TestPartsEnd(t *testing.T) {
	for _, row := range []struct {
		name             string
		age              time.Duration
		payload, covered block.Size
		want             bool
	}{
		{"new", 0, block.MiB, block.MiB, false},
		{"large", 0, partBytes, partBytes, true},
		{"old", partTime + time.Second, 1, block.MiB, true},
		{"old and zero", partTime + time.Second, 0, block.GiB, true},
		{"old and empty", partTime + time.Second, 0, 0, false},
	} {
		u := &upload{open: &delta{start: time.Now().Add(-row.age), seal: block.Seal{Payload: row.payload, Covered: row.covered}}}
		if got := u.full(); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}
