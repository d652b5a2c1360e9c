package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/internal/block"
)

// tlsCommand is the first argument of this program where it is one end of a bare TLS connection.
const tlsCommand = "bare-tls"

// tlsBuffer is what is read from the disk and written to the connection at once: the most that suits TLS, whose records have
// 16 KiB, and reads without cache.
const tlsBuffer = 1 << 20

const tlsReady = "listening at "

// tlsMain is "receive", which prints where it listens and takes one connection, or "send ADDR DEVICE BYTES".
func tlsMain(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "receive":
		return tlsReceive()
	case len(args) == 4 && args[0] == "send":
		n, err := strconv.ParseInt(args[3], 10, 64)
		if err != nil {
			return err
		}
		return tlsSend(args[1], args[2], n)
	}
	return fmt.Errorf("%s is started by bench, not by hand", tlsCommand)
}

// tlsReceive throws away what comes, and says how much it was: then the sender knows that all of it has arrived.
func tlsReceive() error {
	cert, err := throwawayCertificate()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(tlsReady + l.Addr().String())
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, conn, make([]byte, tlsBuffer))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(conn, n)
	return err
}

// tlsSend sends the first n bytes of a device, read without the page cache as the agent reads.
func tlsSend(addr, device string, n int64) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", device, err)
	}
	disk := os.NewFile(uintptr(fd), device)
	defer disk.Close()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{io.LimitReader(disk, n)}, block.AlignedBuffer(tlsBuffer)); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	said, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(said)) != strconv.FormatInt(n, 10) {
		return fmt.Errorf("%q of %d bytes arrived", said, n)
	}
	return nil
}

// throwawayCertificate is for a connection that nobody else may use and that carries a benchmark's bytes.
func throwawayCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// bareTLS sends the first n bytes of the disk from one process to another.
func (f *figures) bareTLS(ctx context.Context, device string, n int64) (cost, error) {
	self, err := os.Executable()
	if err != nil {
		return cost{}, err
	}
	receive, err := f.bed.Start("tls-receive", nil, self, tlsCommand, "receive")
	if err != nil {
		return cost{}, err
	}
	defer receive.KillGroup()
	if err := receive.WaitLog(tlsReady, 10*time.Second); err != nil {
		return cost{}, err
	}
	addr := strings.TrimSpace(strings.TrimPrefix(receive.Log(), tlsReady))
	began := time.Now()
	send, err := f.bed.Start("tls-send", nil, self, tlsCommand, "send", addr, device, strconv.FormatInt(n, 10))
	if err != nil {
		return cost{}, err
	}
	defer send.KillGroup()
	select {
	case <-ctx.Done():
		return cost{}, ctx.Err()
	case <-send.Done():
	}
	c := cost{Seconds: time.Since(began).Seconds(), Sent: n}
	if send.Err() != nil {
		return c, fmt.Errorf("bare TLS: %w: %s", send.Err(), send.Log())
	}
	<-receive.Done()
	source, err1 := send.CPU()
	target, err2 := receive.CPU()
	c.SourceCPU, c.TargetCPU = source.Seconds(), target.Seconds()
	return c, errors.Join(err1, err2, receive.Err())
}
