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
	places []iocb  // one for each read that may be under way; its data is the read's index
	free   []*iocb // places that no read under way has; those at the end are to be submitted next
	events []ioEvent
}

// iocb and ioEvent are struct iocb and struct io_event of linux/aio_abi.h.
type iocb struct {
	data  uint64
	_     uint64 // key, flags; 0, like the opcode: a read
	_     uint32 // opcode, priority: the thread's
	fd    uint32
	buf   uint64
	bytes uint64
	off   int64
	_     [2]uint64 // reserved, more flags, no eventfd
}

type ioEvent struct {
	data uint64
	obj  uint64 // address of the iocb
	res  int64  // bytes, or an error below 0
	_    int64
}

// NewBatch makes a Batch that has at most depth reads under way. Close it.
func NewBatch(depth int) *Batch {
	b := &Batch{places: make([]iocb, depth), free: make([]*iocb, depth), events: make([]ioEvent, depth)}
	for i := range b.places {
		b.free[i] = &b.places[i]
	}
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
	return b.readQueued(f.f.Fd(), reads)
}

func shortRead(r Read, n int, err error) error {
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d of %d bytes at offset %d: %w", n, len(r.Buf), int64(r.Off), err)
}

// readQueued keeps as many of the reads under way as it may, until all have ended. Until then the kernel writes to their buffers, so
// that it does not return before, whatever fails.
func (b *Batch) readQueued(fd uintptr, reads []Read) error {
	var failed error
	for begun, ended := 0, 0; ended < begun || begun < len(reads) && failed == nil; {
		if n := min(len(b.free), len(reads)-begun); n > 0 && failed == nil {
			n, err := b.begin(fd, reads, begun, n)
			begun, failed = begun+n, err
			continue
		}
		least := begun - ended
		if begun < len(reads) {
			least = least/4 + 1 // some places, not one at a time
		}
		n, err := b.end(reads, least)
		if ended += n; failed == nil {
			failed = err
		}
	}
	runtime.KeepAlive(reads)
	return failed
}

// begin submits up to n reads from an index on; it returns how many the kernel took.
func (b *Batch) begin(fd uintptr, reads []Read, from, n int) (int, error) {
	list := b.free[len(b.free)-n:]
	for i, place := range list {
		r := reads[from+i]
		*place = iocb{
			data: uint64(from + i), fd: uint32(fd), off: int64(r.Off),
			buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.Buf)))), bytes: uint64(len(r.Buf)),
		}
	}
	took, _, errno := syscall.Syscall(syscall.SYS_IO_SUBMIT, b.queue, uintptr(n), uintptr(unsafe.Pointer(&list[0])))
	if errno != 0 {
		return 0, shortRead(reads[from], 0, errno)
	}
	copy(list, list[took:]) // what it did not take stays free
	b.free = b.free[:len(b.free)-int(took)]
	return int(took), nil
}

// end waits until at least so many reads have ended; it returns how many have, and the first error among them.
func (b *Batch) end(reads []Read, least int) (n int, err error) {
	got, _, errno := syscall.Syscall6(syscall.SYS_IO_GETEVENTS, b.queue, uintptr(least), uintptr(len(b.events)), uintptr(unsafe.Pointer(&b.events[0])), 0, 0)
	if errno == syscall.EINTR {
		return 0, nil
	}
	if errno != 0 {
		panic(fmt.Sprintf("io_getevents of a queue of its own: %v", errno)) // the reads' buffers would be written to for ever
	}
	for _, e := range b.events[:got] {
		b.free = append(b.free, b.place(e.obj))
		if r := reads[e.data]; err == nil && e.res < int64(len(r.Buf)) {
			err = eventError(r, e.res)
		}
	}
	return int(got), err
}

// place is the one at that address.
func (b *Batch) place(addr uint64) *iocb {
	return &b.places[(addr-uint64(uintptr(unsafe.Pointer(&b.places[0]))))/uint64(unsafe.Sizeof(iocb{}))]
}

func eventError(r Read, res int64) error {
	if res < 0 {
		return shortRead(r, 0, syscall.Errno(-res))
	}
	return shortRead(r, int(res), nil)
}
