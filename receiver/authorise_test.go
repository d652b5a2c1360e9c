package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/codec"
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// lines is a log that a test can read while it is written.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// station is a receiver with its CA that listens until the test ends.
type station struct {
	t    *testing.T
	ca   string
	addr string
	log  lines
}

func newStation(t *testing.T, tune ...func(*Receiver)) *station {
	t.Helper()
	s := &station{t: t, ca: filepath.Join(t.TempDir(), "ca")}
	if err := pki.Init(s.ca, "home", false); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	own := s.credentials("vault", wire.RoleTarget)
	current := func() *link.Credentials { return own }
	authority, err := pki.OpenAuthority(s.ca)
	if err != nil {
		t.Fatal(err)
	}
	cd, err := codec.New()
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Dir: t.TempDir()}, cd, NewSigner(authority, time.Hour, current, log), log)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tune {
		f(r)
	}
	l, err := link.Listen("127.0.0.1:0", []link.Carrier{link.TCP}, link.Config{Current: current})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr(link.TCP).String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, l.Close(), r.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *station) credentials(name string, role wire.Role) *link.Credentials {
	s.t.Helper()
	dir := filepath.Join(filepath.Dir(s.ca), name)
	if err := pki.Issue(s.ca, name, role, time.Hour, dir); err != nil {
		s.t.Fatal(err)
	}
	c, err := link.LoadCredentials(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *station) session(name string, role wire.Role) *link.Session {
	s.t.Helper()
	session, err := link.Dial(context.Background(), link.TCP, s.addr, link.Config{Credentials: s.credentials(name, role), Role: role})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { session.Close(nil) })
	return session
}

// ask begins a stream with a message, and gives the answer or the refusal.
func (s *station) ask(session *link.Session, m wire.Message) (wire.Message, error) {
	s.t.Helper()
	stream, err := session.OpenStream(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(time.Minute))
	if err := errors.Join(stream.Send(m), stream.Flush()); err != nil {
		s.t.Fatal(err)
	}
	for {
		got, err := stream.Receive()
		if err != nil {
			if link.Broken(err) {
				s.t.Fatal(err)
			}
			return nil, err
		}
		if _, progress := got.Message.(*wire.Progress); !progress {
			return got.Message, nil
		}
	}
}

// every is one message of each request there is, about a disk.
func every(t *testing.T, id block.DiskID) map[request]wire.Message {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	list := map[request]wire.Message{}
	for _, m := range []wire.Message{
		&wire.Open{Disk: id, Size: 1 << 20, BlockSize: 4096}, &wire.ScanRequest{Disk: id, Range: block.Range{Len: 4096}, Chunk: 4096, Group: 1},
		&wire.Renew{Request: csr}, &wire.Read{Disk: id.String(), Point: "latest"},
		&wire.Invite{Host: "web7", TTL: time.Hour}, &wire.Revoke{Name: "nobody"},
	} {
		list[requestOf(m)] = m
	}
	for b := range 256 { // every kind that has a name
		if kind := wire.QueryKind(b); !strings.Contains(kind.String(), "(") {
			list[request{wire.TypeQuery, uint8(b)}] = &wire.Query{Kind: kind, Disk: id.String()}
		}
		if kind := wire.CommandKind(b); !strings.Contains(kind.String(), "(") {
			list[request{wire.TypeCommand, uint8(b)}] = &wire.Command{Kind: kind, Disk: id.String(), Point: "latest"}
		}
	}
	return list
}

// allowed is who may what, written down once more: rows that say nothing of a role deny it.
var allowed = map[string][]wire.Role{
	"open":         {wire.RoleSource},
	"scan request": {wire.RoleSource},
	"renew":        {wire.RoleSource},
	"status":       {wire.RoleSource, wire.RoleViewer, wire.RoleOperator, wire.RoleAdmin},
	"points":       {wire.RoleSource, wire.RoleViewer, wire.RoleOperator, wire.RoleAdmin},
	"read":         {wire.RoleOperator, wire.RoleAdmin},
	"pin":          {wire.RoleOperator, wire.RoleAdmin},
	"unpin":        {wire.RoleOperator, wire.RoleAdmin},
	"promote":      {wire.RoleOperator, wire.RoleAdmin},
	"audit":        {wire.RoleOperator, wire.RoleAdmin},
	"accept":       {wire.RoleOperator, wire.RoleAdmin},
	"invite":       {wire.RoleAdmin},
	"revoke":       {wire.RoleAdmin},
}

// TestEveryRequestOfEveryRole sends each request there is with a certificate of each role there is, over the link, about the
// peer's own disk and about another host's.
func TestEveryRequestOfEveryRole(t *testing.T) {
	s := newStation(t)
	id := block.NewDiskID()
	// A disk of web1, which is a source's own and everybody else's other.
	if _, err := s.ask(s.session("web1", wire.RoleSource), &wire.Open{Disk: id, Size: 1 << 20, BlockSize: 4096}); err != nil {
		t.Fatal(err)
	}
	requests := every(t, id)
	if len(requests) != len(grants) || len(requests) != len(allowed) {
		t.Errorf("%d requests, the table has %d rows, this test %d", len(requests), len(grants), len(allowed))
	}
	peers := map[string]*link.Session{"web2": s.session("web2", wire.RoleSource)}
	for _, role := range wire.Roles() {
		if role != wire.RoleSource {
			peers["a "+role.String()] = s.session("a-"+role.String(), role)
		}
	}
	for req, m := range requests {
		who, known := allowed[req.String()]
		if _, row := grants[req]; !known || !row {
			t.Errorf("%v is in no row", req)
			continue
		}
		for name, session := range peers {
			_, err := s.ask(session, m)
			s.judge(t, name, req, who, err)
		}
	}
	// The refusals are in the log, with who and what.
	for _, want := range []string{"peer=a-viewer role=viewer", "what=promote", "what=open", "what=revoke", "code=forbidden", "addr=127.0.0.1"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log never says %q", want)
		}
	}
}

// judge holds what came of a request against the table.
func (s *station) judge(t *testing.T, name string, req request, who []wire.Role, err error) {
	t.Helper()
	role, may := wire.RoleSource, false
	if word, person := strings.CutPrefix(name, "a "); person {
		role, _ = wire.ParseRole(word)
	}
	for _, r := range who {
		may = may || r == role
	}
	forbidden := errors.Is(err, wire.ErrForbidden)
	switch {
	case role != wire.RoleSource && forbidden == may:
		t.Errorf("%s, %v: %v, allowed: %v", name, req, err, may)
	case role != wire.RoleSource:
	case !may && !forbidden:
		t.Errorf("%s, %v: %v", name, req, err)
	// A source, of another host's disk: it may not, or hears that there is none, or nothing of it.
	case req.String() == "status", req.String() == "renew":
		if err != nil {
			t.Errorf("%s, %v: %v", name, req, err)
		}
	case may && !forbidden && !errors.Is(err, wire.ErrUnknownDisk):
		t.Errorf("%s, %v of another host's disk: %v", name, req, err)
	}
}

// TestASourceSeesItsOwnDisksOnly: neither a list nor the words of a refusal tell it of others'.
func TestASourceSeesItsOwnDisksOnly(t *testing.T) {
	s := newStation(t)
	ids := map[string]block.DiskID{}
	sessions := map[string]*link.Session{}
	for _, host := range []string{"web1", "web2"} {
		ids[host] = block.NewDiskID()
		sessions[host] = s.session(host, wire.RoleSource)
		if _, err := s.ask(sessions[host], &wire.Open{Disk: ids[host], Name: "/dev/" + host, Size: 1 << 20, BlockSize: 4096}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(session *link.Session) string {
		got, err := s.ask(session, &wire.Query{Kind: wire.QueryStatus})
		if err != nil {
			t.Fatal(err)
		}
		var reports []DiskReport
		if err := json.Unmarshal(got.(*wire.Reply).Document, &reports); err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, r := range reports {
			names = append(names, r.Host)
		}
		return fmt.Sprint(names)
	}
	if got := list(sessions["web1"]); got != "[web1]" {
		t.Errorf("web1 sees %s", got)
	}
	if got := list(s.session("vic", wire.RoleViewer)); got != "[web1 web2]" {
		t.Errorf("a viewer sees %s", got)
	}
	if _, err := s.ask(sessions["web1"], &wire.Query{Kind: wire.QueryPoints, Disk: "/dev/web1"}); err != nil {
		t.Errorf("its own points: %v", err)
	}
	for _, disk := range []string{ids["web2"].String(), "/dev/web2", "web2:/dev/web2", ids["web2"].String()[:6]} {
		_, err := s.ask(sessions["web1"], &wire.Query{Kind: wire.QueryPoints, Disk: disk})
		if !errors.Is(err, wire.ErrUnknownDisk) || strings.Contains(strings.ReplaceAll(err.Error(), fmt.Sprintf("%q", disk), ""), "web2") {
			t.Errorf("%s: %v", disk, err)
		}
	}
}

// TestRefusalsAreCountedNotAllLogged: one peer that asks and asks does not fill the log, nor hides another.
func TestRefusalsAreCountedNotAllLogged(t *testing.T) {
	s := newStation(t)
	noisy, quiet := s.session("noisy", wire.RoleViewer), s.session("quiet", wire.RoleViewer)
	for range 60 {
		if _, err := s.ask(noisy, &wire.Revoke{Name: "x"}); !errors.Is(err, wire.ErrForbidden) {
			t.Fatal(err)
		}
	}
	if _, err := s.ask(quiet, &wire.Revoke{Name: "x"}); !errors.Is(err, wire.ErrForbidden) {
		t.Fatal(err)
	}
	if n := strings.Count(s.log.String(), "msg=refused peer=noisy"); n == 0 || n > 25 {
		t.Errorf("%d lines of one peer", n)
	}
	if strings.Count(s.log.String(), "msg=refused peer=quiet") != 1 {
		t.Error("the other's line is missing")
	}
}

// TestWhatBeginsNoStream: messages that answer, parts of deltas and kinds that nobody knows begin nothing, whoever sends them.
func TestWhatBeginsNoStream(t *testing.T) {
	s := newStation(t)
	admin := s.session("ann", wire.RoleAdmin)
	for _, m := range []wire.Message{&wire.Ack{Seq: 1}, &wire.Abort{}, &wire.Query{Kind: 200}, &wire.Command{Kind: 200}, &wire.Granted{Certificate: []byte{1}}} {
		if _, err := s.ask(admin, m); !errors.Is(err, wire.ErrProtocol) {
			t.Errorf("%v: %v", m.Type(), err)
		}
	}
}

// TestAHostHasSoManyDisks: more are refused; another host's are not.
func TestAHostHasSoManyDisks(t *testing.T) {
	s := newStation(t)
	web1 := s.session("web1", wire.RoleSource)
	for i := range maxDisks {
		if _, err := s.ask(web1, &wire.Open{Disk: block.NewDiskID(), Size: 1 << 20, BlockSize: 4096}); err != nil {
			t.Fatalf("disk %d: %v", i+1, err)
		}
	}
	if _, err := s.ask(web1, &wire.Open{Disk: block.NewDiskID(), Size: 1 << 20, BlockSize: 4096}); !errors.Is(err, wire.ErrForbidden) || !strings.Contains(err.Error(), "256 disks") {
		t.Errorf("one more: %v", err)
	}
	if _, err := s.ask(s.session("web2", wire.RoleSource), &wire.Open{Disk: block.NewDiskID(), Size: 1 << 20, BlockSize: 4096}); err != nil {
		t.Errorf("another host: %v", err)
	}
}

// TestAStreamThatSaysNothingEnds, and the session goes on.
func TestAStreamThatSaysNothingEnds(t *testing.T) {
	s := newStation(t, func(r *Receiver) { r.patience = 50 * time.Millisecond })
	session := s.session("vic", wire.RoleViewer)
	stream, err := session.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(time.Minute))
	if got, err := stream.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.ask(session, &wire.Query{Kind: wire.QueryStatus}); err != nil {
		t.Errorf("another request: %v", err)
	}
}
