package block

import (
	"fmt"
	"io"
	"runtime"
	"syscall"
	"unsafe"
)

// Read is one of a batch: Buf is to hold what lies at Off, all of it.
type Read struct {
	Off Offset
	Buf []byte
}

// Batch reads many small pieces of a device at once: the disk works on them side by side, and one thread waits for all, not for
// each. On a File that is open Direct it uses the kernel's asynchronous I/O (io_submit(2)), where the kernel lets it; elsewhere it
// reads one after another. One goroutine uses it at a time. Read allocates nothing unless it fails.
type Batch struct {
	queue  uintptr // aio_context_t; 0: there is none
	blocks []iocb
	submit []*iocb
	events []ioEvent
}

// iocb and ioEvent are struct iocb and struct io_event of linux/aio_abi.h.
type iocb struct {
	data      uint64
	key       uint32
	flags     uint32
	opcode    uint16
	priority  int16
	fd        uint32
	buf       uint64
	bytes     uint64
	off       int64
	_         uint64
	moreFlags uint32
	eventFD   uint32
}

type ioEvent struct {
	data uint64
	obj  uint64
	res  int64
	res2 int64
}

// NewBatch makes a Batch that has at most depth reads under way. Close it.
func NewBatch(depth int) *Batch {
	b := &Batch{blocks: make([]iocb, depth), submit: make([]*iocb, depth), events: make([]ioEvent, depth)}
	if _, _, errno := syscall.Syscall(syscall.SYS_IO_SETUP, uintptr(depth), uintptr(unsafe.Pointer(&b.queue)), 0); errno != 0 {
		b.queue = 0 // not built in, forbidden, or fs.aio-max-nr is used up
	}
	return b
}

// Queued tells whether the kernel gave it a queue.
func (b *Batch) Queued() bool { return b.queue != 0 }

// Close gives the kernel's queue back.
func (b *Batch) Close() {
	if b.queue != 0 {
		_, _, _ = syscall.Syscall(syscall.SYS_IO_DESTROY, b.queue, 0, 0)
		b.queue = 0
	}
}

// Read does all reads, or returns the first error when those under way have ended. A device that ends early is an error.
func (b *Batch) Read(dev Device, reads []Read) error {
	f, ok := dev.(*File)
	if !ok || !f.direct || b.queue == 0 || len(reads) == 1 { // a single one costs less without a queue
		for _, r := range reads {
			if n, err := dev.ReadAt(r.Buf, int64(r.Off)); n < len(r.Buf) {
				return shortRead(r, n, err)
			}
		}
		return nil
	}
	for len(reads) > 0 {
		n := min(len(reads), len(b.blocks))
		if err := b.readAtOnce(f.f.Fd(), reads[:n]); err != nil {
			return err
		}
		reads = reads[n:]
	}
	return nil
}

func shortRead(r Read, n int, err error) error {
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d of %d bytes at offset %d: %w", n, len(r.Buf), int64(r.Off), err)
}

// readAtOnce submits the reads and waits for those that were taken. Until they have ended, the kernel writes to their buffers: it
// does not return before.
func (b *Batch) readAtOnce(fd uintptr, reads []Read) error {
	for i, r := range reads {
		b.blocks[i] = iocb{data: uint64(i), fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.Buf)))), bytes: uint64(len(r.Buf)), off: int64(r.Off)}
		b.submit[i] = &b.blocks[i]
	}
	var failed error
	for begun, ended := 0, 0; ended < begun || begun < len(reads) && failed == nil; {
		if begun < len(reads) && failed == nil {
			n, errno := b.begin(b.submit[begun:len(reads)])
			if begun += n; errno != 0 {
				failed = shortRead(reads[begun], 0, errno)
			}
			continue
		}
		n, errno := b.end(begun - ended)
		if errno != 0 && errno != syscall.EINTR {
			panic(fmt.Sprintf("io_getevents of a queue of its own: %v", errno)) // its buffers would be written to for ever
		}
		for _, e := range b.events[:n] {
			if r := reads[e.data]; failed == nil && e.res < int64(len(r.Buf)) {
				failed = eventError(r, e.res)
			}
		}
		ended += n
	}
	runtime.KeepAlive(reads)
	return failed
}

func eventError(r Read, res int64) error {
	if res < 0 {
		return shortRead(r, 0, syscall.Errno(-res))
	}
	return shortRead(r, int(res), nil)
}

// begin submits iocbs; it returns how many the kernel took.
func (b *Batch) begin(list []*iocb) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall(syscall.SYS_IO_SUBMIT, b.queue, uintptr(len(list)), uintptr(unsafe.Pointer(&list[0])))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// end waits for at least one of n reads under way, and returns how many have ended.
func (b *Batch) end(n int) (int, syscall.Errno) {
	got, _, errno := syscall.Syscall6(syscall.SYS_IO_GETEVENTS, b.queue, 1, uintptr(n), uintptr(unsafe.Pointer(&b.events[0])), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), 0
}
