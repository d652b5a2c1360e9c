package link_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
)

// The three benchmarks move the same bytes over loopback, both ends in this process: compare them within one run.
//
//	go test ./internal/link -run xxx -bench . -benchtime 2s -count 5

const benchPayload = int(block.MaxFrameData)

// cpuPerGB reports what both ends together took.
func cpuPerGB(b *testing.B, begun time.Duration) {
	used := cpuTime() - begun
	b.ReportMetric(used.Seconds()/(float64(b.N)*float64(benchPayload)/1e9), "CPU-s/GB")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkSendFrame(b *testing.B) {
	for _, carrier := range carriers {
		b.Run(string(carrier), func(b *testing.B) {
			source, target := pair(b, carrier, nil)
			from, to := streams(b, source, target)
			payload := make([]byte, benchPayload)
			h := block.FrameHeader{Kind: block.FrameData, Payload: uint32(len(payload)), Range: block.Range{Len: block.MaxFrameData}}
			received := make(chan error, 1)
			b.SetBytes(int64(benchPayload))
			begun := cpuTime()
			b.ResetTimer()
			go func() {
				for range b.N {
					if _, err := to.Receive(); err != nil {
						received <- err
						return
					}
				}
				received <- nil
			}()
			for range b.N {
				if err := from.SendFrame(h, payload); err != nil {
					b.Fatal(err)
				}
			}
			if err := errors.Join(from.Flush(), <-received); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			cpuPerGB(b, begun)
		})
	}
}

// BenchmarkBareTLS is crypto/tls over TCP with nothing around it.
func BenchmarkBareTLS(b *testing.B) {
	s := newSite(b)
	s.host(b, "dr1", wire.RoleTarget)
	cert, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "dr1", "host.crt"), filepath.Join(s.dir, "dr1", "host.key"))
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	received := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		defer c.Close()
		conn, buf := tls.Server(c, cfg), make([]byte, benchPayload)
		for err == nil {
			_, err = io.ReadFull(conn, buf)
		}
		received <- err
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, benchPayload)
	b.SetBytes(int64(benchPayload))
	begun := cpuTime()
	b.ResetTimer()
	for range b.N {
		if _, err := conn.Write(payload); err != nil {
			b.Fatal(err)
		}
	}
	conn.Close()
	if err := <-received; err != io.EOF {
		b.Fatal(err)
	}
	b.StopTimer()
	cpuPerGB(b, begun)
}
