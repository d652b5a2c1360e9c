package wire

import (
	"fmt"

	"github.com/understudy-dr/understudy/internal/block"
)

// Open begins the replication of a disk on a stream: the source's first message. Opened or Error answers it.
//
//	disk 16 | name string | host string | boot id 16 | machine 32 | size u64 | block size u32 | generation u32 | known seq u64 |
//	known digest 32 | rejoin u8 (0 or 1)
type Open struct {
	Disk block.DiskID
	Name string // the device's path at the source, for people
	Host string
	// Boot is the kernel's boot id at the source. Within one boot a tracker has one owner, so an open of the same boot means
	// that the agent before it is gone, whatever the target still sees of its connection.
	Boot [16]byte
	// Machine is a digest over what tells the source's hardware from a copy of it; zero where nothing does. A clone of a
	// server brings its certificate and its disks' ids along, but not this.
	Machine    block.Digest
	Size       block.Size
	BlockSize  block.BlockSize
	Generation block.Generation // the source's own: one that is older than the target's is refused, unless it rejoins
	// KnownSeq and KnownDigest are the delta that the source's dirty set is relative to; zero: there is none.
	KnownSeq    block.Seq
	KnownDigest block.Digest
	// Rejoin says that an operator gave up what was promoted over there: the source takes the target's generation over, and
	// compares the disk before it calls any point consistent.
	Rejoin bool
}

// Type is TypeOpen.
func (*Open) Type() Type { return TypeOpen }

// Check holds the message against the limits.
func (m *Open) Check() error {
	if m.Size <= 0 || m.Size > block.MaxDiskSize {
		return fmt.Errorf("a disk of %d bytes", m.Size)
	}
	if err := m.BlockSize.Check(); err != nil {
		return err
	}
	if m.KnownSeq == 0 && m.KnownDigest != (block.Digest{}) {
		return fmt.Errorf("a digest of no delta")
	}
	if err := checkText("disk name", m.Name, MaxDiskName); err != nil {
		return err
	}
	return checkText("host", m.Host, MaxHost)
}

func (m *Open) appendBody(b []byte) []byte {
	b = appendText(appendText(append(b, m.Disk[:]...), m.Name), m.Host)
	b = append(append(b, m.Boot[:]...), m.Machine[:]...)
	b = appendU32(appendU32(appendU64(b, uint64(m.Size)), uint32(m.BlockSize)), uint32(m.Generation))
	return appendBool(append(appendU64(b, uint64(m.KnownSeq)), m.KnownDigest[:]...), m.Rejoin)
}

func (m *Open) parseBody(c *cursor) {
	m.Disk, m.Name, m.Host = c.disk(), c.text(MaxDiskName), c.text(MaxHost)
	copy(m.Boot[:], c.take(len(m.Boot)))
	m.Machine = c.digest()
	m.Size, m.BlockSize, m.Generation = block.Size(c.u64()), block.BlockSize(c.u32()), block.Generation(c.u32())
	m.KnownSeq, m.KnownDigest, m.Rejoin = block.Seq(c.u64()), c.digest(), c.boolean()
}
