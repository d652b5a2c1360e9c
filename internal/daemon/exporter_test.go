package daemon

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// runExporter runs e until the test ends, on a free port unless it has one, and gives its address.
func runExporter(t *testing.T, e *Exporter) (addr string, log *lines) {
	t.Helper()
	log = new(lines)
	e.Log = slog.New(slog.NewTextHandler(log, nil))
	if e.Addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		e.Addr = l.Addr().String()
		l.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		e.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run goes on after its context has ended")
		}
	})
	return e.Addr, log
}

func ask(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // a connection of its own
	reply, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(body)
}

// waitFor looks again and again: a log and a port tell nobody when they change.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func page(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}

func TestExporterServes(t *testing.T) {
	var alive atomic.Bool
	alive.Store(true)
	addr, _ := runExporter(t, &Exporter{Metrics: page("up 1\n"), Alive: alive.Load})
	waitFor(t, "it answers", func() bool { code, _ := ask(t, "GET", "http://"+addr+"/metrics"); return code == 200 })
	for _, row := range []struct {
		method, path string
		alive        bool
		code         int
		says         string
	}{
		{"GET", "/metrics", true, 200, "up 1\n"},
		{"GET", "/healthz", true, 200, "ok\n"},
		{"GET", "/healthz", false, 503, "hangs"},
		{"GET", "/metrics", false, 200, "up 1\n"},
		{"POST", "/metrics", true, 405, ""},
		{"DELETE", "/healthz", true, 405, ""},
		{"GET", "/", true, 404, ""},
		{"GET", "/debug/pprof/", true, 404, ""},
	} {
		alive.Store(row.alive)
		if code, body := ask(t, row.method, "http://"+addr+row.path); code != row.code || !strings.Contains(body, row.says) {
			t.Errorf("%s %s, alive %v: %d, %q", row.method, row.path, row.alive, code, body)
		}
	}
}

// TestExporterWaitsForItsPort: a port that is taken does not stop the daemon, is said once, and is taken up when it is free.
func TestExporterWaitsForItsPort(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &Exporter{Addr: other.Addr().String(), Metrics: page("up 1\n"), Alive: func() bool { return true }, retry: 20 * time.Millisecond}
	addr, log := runExporter(t, e)
	waitFor(t, "a warning", func() bool { return strings.Contains(log.String(), "trying again") })
	time.Sleep(200 * time.Millisecond) // ten more tries: for a second warning, which must not come
	if n := strings.Count(log.String(), "trying again"); n != 1 {
		t.Errorf("the same was said %d times", n)
	}
	other.Close()
	waitFor(t, "it answers", func() bool { code, _ := ask(t, "GET", "http://"+addr+"/metrics"); return code == 200 })
}

// TestExporterOff listens nowhere and returns.
func TestExporterOff(t *testing.T) {
	(&Exporter{Addr: ExporterOff}).Run(context.Background())
	for addr, good := range map[string]bool{ExporterOff: true, "127.0.0.1:1": true, "[::1]:1": true, ":1": true, "": false, "14430": false, "on": false} {
		if err := CheckExporterAddr(addr); (err == nil) != good || err != nil && ExitCode(err) != CodeUsage {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

// TestExporterBounds: whoever connects and says nothing takes his places for some seconds, and whoever asks for pages that take
// long gets two at once.
func TestExporterBounds(t *testing.T) {
	release := make(chan struct{})
	var made atomic.Int32
	slow := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { made.Add(1); <-release })
	addr, _ := runExporter(t, &Exporter{Metrics: slow, Alive: func() bool { return true }})
	waitFor(t, "it answers", func() bool { code, _ := ask(t, "GET", "http://"+addr+"/healthz"); return code == 200 })
	codes := make(chan int, 5)
	for range 5 {
		go func() { code, _ := ask(t, "GET", "http://"+addr+"/metrics"); codes <- code }()
	}
	for range 3 {
		select {
		case code := <-codes:
			if code != 503 {
				t.Errorf("a page too many: %d", code)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("a page too many is made")
		}
	}
	if made.Load() != 2 {
		t.Errorf("%d pages were made at once", made.Load())
	}
	close(release)
	<-codes
	<-codes

	for range exporterConns + 4 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	began := time.Now()
	waitFor(t, "it answers in spite of them", func() bool { code, _ := ask(t, "GET", "http://"+addr+"/healthz"); return code == 200 })
	if took := time.Since(began); took < exporterRead/2 || took > 3*exporterRead {
		t.Errorf("it took %v: %d silent connections hold it up for %v each", took, exporterConns+4, exporterRead)
	}
}

// TestHealthOfADaemonThatHangs: each question is answered in time, and they don't pile up.
func TestHealthOfADaemonThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		var asked atomic.Int32
		e := &Exporter{Alive: func() bool { asked.Add(1); <-hang; return true }}
		h := e.health()
		health := func() int {
			reply := &recorder{}
			h.ServeHTTP(reply, nil)
			return reply.code
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				began := time.Now()
				if code := health(); code != 503 || time.Since(began) > exporterPatience {
					t.Errorf("%d after %v", code, time.Since(began))
				}
			})
		}
		all.Wait()
		if asked.Load() != 1 {
			t.Errorf("it was asked %d times", asked.Load())
		}
		close(hang)
		synctest.Wait()
		if code := health(); code != 0 && code != 200 {
			t.Errorf("it works again: %d", code)
		}
	})
}

// recorder keeps the status alone.
type recorder struct{ code int }

func (r *recorder) Header() http.Header         { return http.Header{} }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *recorder) WriteHeader(code int)        { r.code = code }
