package link

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
)

// What goes on between yamux, TLS and the kernel, and why two thin layers are here:
//
//	yamux ── header of 12 bytes, then a body of up to 256 KiB ──▶ muxConn ──▶ TLS ── records of 16 KiB ──▶ batchConn ──▶ kernel
//
// TLS makes a system call of every record, and yamux's header would be one of its own. muxConn holds the records of header
// and body together; batchConn writes them in calls of recordBatch. The copy costs less than the calls.

// batchConn is the connection below TLS. It counts the bytes of the network.
type batchConn struct {
	net.Conn
	in, out atomic.Uint64

	reads []byte // memory of ahead
	ahead []byte // read from the kernel and not yet by TLS

	mu     sync.Mutex
	corked bool
	buf    []byte
}

func newBatchConn(raw net.Conn) *batchConn {
	return &batchConn{Conn: raw, reads: make([]byte, recordBatch)}
}

// Read is called by TLS only, which holds a lock of its own.
func (b *batchConn) Read(p []byte) (int, error) {
	if len(b.ahead) == 0 {
		n, err := b.Conn.Read(b.reads)
		b.in.Add(uint64(n))
		if n == 0 {
			return 0, err
		}
		b.ahead = b.reads[:n] // with an error, the next call meets it again
	}
	n := copy(p, b.ahead)
	b.ahead = b.ahead[n:]
	return n, nil
}

// cork makes writes gather until uncork.
func (b *batchConn) cork() {
	b.mu.Lock()
	b.corked = true
	b.mu.Unlock()
}

// uncork writes what has gathered.
func (b *batchConn) uncork() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.corked = false
	return b.flush()
}

// Write writes, or gathers. TLS holds its own lock meanwhile, so records stay in order.
func (b *batchConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.corked {
		if err := b.flush(); err != nil {
			return 0, err
		}
		n, err := b.Conn.Write(p)
		b.out.Add(uint64(n))
		return n, err
	}
	if len(b.buf)+len(p) > recordBatch {
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	if b.buf == nil {
		b.buf = make([]byte, 0, recordBatch)
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

// flush needs mu.
func (b *batchConn) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	n, err := b.Conn.Write(b.buf)
	b.out.Add(uint64(n))
	b.buf = b.buf[:0]
	return err
}

// muxConn is the connection that yamux writes to, from one goroutine.
type muxConn struct {
	net.Conn // TLS
	batch    *batchConn
}

// Write writes a header or a body. The header of a data frame waits for the body, which yamux writes next.
func (m *muxConn) Write(p []byte) (int, error) {
	const headerSize, typeAt, typeData, lengthAt = 12, 1, 0, 8 // yamux's spec.md, "Framing"
	m.batch.cork()
	n, err := m.Conn.Write(p)
	if err == nil && len(p) == headerSize && p[typeAt] == typeData && binary.BigEndian.Uint32(p[lengthAt:]) > 0 {
		return n, nil
	}
	if flushed := m.batch.uncork(); err == nil {
		err = flushed
	}
	return n, err
}
