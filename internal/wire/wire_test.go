package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/internal/block"
	"github.com/understudy-dr/understudy/internal/wire"
)

// draws makes any valid message of each type.
var draws = map[wire.Type]func(t *rapid.T) wire.Message{
	wire.TypeHello: func(t *rapid.T) wire.Message {
		low := rapid.Uint16Min(1).Draw(t, "min")
		return &wire.Hello{
			MinVersion: low, MaxVersion: rapid.Uint16Min(low).Draw(t, "max"), Role: wire.Role(rapid.Byte().Draw(t, "role")),
			Host: text(t, wire.MaxHost), Program: text(t, wire.MaxProgram), Time: instant(t),
		}
	},
	wire.TypeWelcome: func(t *rapid.T) wire.Message {
		return &wire.Welcome{
			Version: rapid.Uint16Min(1).Draw(t, "version"), Host: text(t, wire.MaxHost), Program: text(t, wire.MaxProgram), Time: instant(t),
		}
	},
	wire.TypeError: func(t *rapid.T) wire.Message {
		return &wire.Error{Code: wire.Code(rapid.Uint16().Draw(t, "code")), Text: text(t, wire.MaxErrorText)}
	},
	wire.TypeEnd: func(t *rapid.T) wire.Message {
		rapid.Bool().Draw(t, "nothing") // a generator has to draw
		return &wire.End{}
	},
	wire.TypeAbort: func(t *rapid.T) wire.Message {
		rapid.Bool().Draw(t, "nothing")
		return &wire.Abort{}
	},
	wire.TypeOpen: func(t *rapid.T) wire.Message {
		m := &wire.Open{
			Disk: block.NewDiskID(), Name: text(t, wire.MaxDiskName), Boot: [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "boot")), Machine: digest(t), Host: text(t, wire.MaxHost), Size: diskSize(t),
			BlockSize:  block.BlockSize(512 << rapid.IntRange(0, 17).Draw(t, "shift")),
			Generation: block.Generation(rapid.Uint32().Draw(t, "generation")), KnownSeq: block.Seq(rapid.Uint64().Draw(t, "seq")),
		}
		if m.KnownSeq != 0 {
			m.KnownDigest = digest(t)
		}
		m.Rejoin = rapid.Bool().Draw(t, "rejoin")
		return m
	},
	wire.TypeOpened: func(t *rapid.T) wire.Message {
		return &wire.Opened{
			TipSeq: seq(t), TipDigest: digest(t), TipSize: diskSize(t), PointTime: instant(t),
			Generation: block.Generation(rapid.Uint32().Draw(t, "generation")), HasPoint: rapid.Bool().Draw(t, "point"),
		}
	},
	wire.TypeAck: func(t *rapid.T) wire.Message { return &wire.Ack{Seq: seq(t), Digest: digest(t)} },
	wire.TypeScanRequest: func(t *rapid.T) wire.Message {
		chunk := block.Size(rapid.Int64Range(int64(wire.MinScanChunk), int64(wire.MaxScanChunk)).Draw(t, "chunk"))
		length := block.Size(rapid.Int64Range(1, int64(chunk)*wire.MaxScanDigests).Draw(t, "length"))
		return &wire.ScanRequest{
			Disk: block.NewDiskID(), Seq: seq(t), Chunk: chunk, Range: block.Range{Off: 4096, Len: length},
			Group: rapid.Uint32Range(1, wire.MaxScanDigests).Draw(t, "group"),
		}
	},
	wire.TypeScanReply: func(t *rapid.T) wire.Message {
		m := &wire.ScanReply{Seq: seq(t), Range: block.Range{Off: 1, Len: diskSize(t) - 1}}
		m.Range.Len = max(m.Range.Len, 1)
		for range rapid.IntRange(1, 20).Draw(t, "digests") {
			m.Digests = append(m.Digests, digest(t))
		}
		return m
	},
	wire.TypeQuery: func(t *rapid.T) wire.Message {
		return &wire.Query{Kind: wire.QueryKind(rapid.Byte().Draw(t, "kind")), Disk: text(t, wire.MaxSelector), Point: text(t, wire.MaxSelector)}
	},
	wire.TypeReply: func(t *rapid.T) wire.Message {
		return &wire.Reply{Document: append([]byte{}, rapid.SliceOfN(rapid.Byte(), 1, 500).Draw(t, "document")...)}
	},
	wire.TypeCommand: func(t *rapid.T) wire.Message {
		return &wire.Command{Kind: wire.CommandKind(rapid.Byte().Draw(t, "kind")), Disk: text(t, wire.MaxSelector), Point: text(t, wire.MaxSelector)}
	},
	wire.TypeProgress: func(t *rapid.T) wire.Message { return &wire.Progress{Done: diskSize(t), Total: diskSize(t)} },
	wire.TypeRead: func(t *rapid.T) wire.Message {
		return &wire.Read{Disk: text(t, wire.MaxSelector), Point: text(t, wire.MaxSelector), Range: block.Range{Len: diskSize(t)}}
	},
	wire.TypeReadStart: func(t *rapid.T) wire.Message {
		return &wire.ReadStart{Disk: block.NewDiskID(), Size: diskSize(t), Seal: block.Seal{
			Class: block.ClassCrash, Seq: seq(t), Time: instant(t), Frames: 3, Payload: 4, Covered: 5, Digest: digest(t),
			Labels: map[string]string{"host": text(t, 40)},
		}}
	},
	wire.TypeReadEnd: func(t *rapid.T) wire.Message {
		return &wire.ReadEnd{Digest: digest(t), Frames: rapid.Uint64().Draw(t, "frames")}
	},
	wire.TypeEnroll: func(t *rapid.T) wire.Message {
		m := &wire.Enroll{Host: name(t), Program: text(t, wire.MaxProgram), Request: der(t)}
		copy(m.Token[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "token"))
		copy(m.Secret[:], rapid.SliceOfN(rapid.Byte(), 24, 24).Draw(t, "secret"))
		return m
	},
	wire.TypeRenew: func(t *rapid.T) wire.Message { return &wire.Renew{Request: der(t)} },
	wire.TypeGranted: func(t *rapid.T) wire.Message {
		m := &wire.Granted{Certificate: der(t)}
		for range rapid.IntRange(0, wire.MaxCAs).Draw(t, "CAs") {
			m.CAs = append(m.CAs, der(t))
		}
		return m
	},
	wire.TypeInvite: func(t *rapid.T) wire.Message {
		return &wire.Invite{Host: name(t), TTL: time.Duration(rapid.Int64Range(1, int64(wire.MaxTokenTTL)).Draw(t, "ttl")), Receiver: text(t, wire.MaxAddress)}
	},
	wire.TypeRevoke: func(t *rapid.T) wire.Message {
		if rapid.Bool().Draw(t, "by name") {
			return &wire.Revoke{Name: name(t)}
		}
		return &wire.Revoke{Serial: rapid.StringOfN(rapid.RuneFrom([]rune("0123456789abcdef")), 1, 40, -1).Draw(t, "serial")}
	},
}

func der(t *rapid.T) []byte { return rapid.SliceOfN(rapid.Byte(), 1, wire.MaxDER).Draw(t, "der") }

func name(t *rapid.T) string { return rapid.StringN(1, 60, wire.MaxHost).Draw(t, "name") }

func text(t *rapid.T, limit int) string {
	return rapid.StringN(0, limit/4, limit).Draw(t, "text")
}

func instant(t *rapid.T) time.Time {
	return time.Unix(0, rapid.Int64().Draw(t, "time")).UTC()
}

func seq(t *rapid.T) block.Seq { return block.Seq(rapid.Uint64Min(1).Draw(t, "seq")) }

func diskSize(t *rapid.T) block.Size {
	return block.Size(rapid.Int64Range(1, int64(block.MaxDiskSize)).Draw(t, "size"))
}

func digest(t *rapid.T) (d block.Digest) {
	copy(d[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
	return d
}

// everyType calls f once for each type there is, and so fails when a type has no generator above.
func everyType(t *testing.T, f func(t *testing.T, draw func(*rapid.T) wire.Message)) {
	for b := 0; b < 256; b++ {
		typ := wire.Type(b)
		if strings.HasPrefix(typ.String(), "type(") {
			continue
		}
		t.Run(typ.String(), func(t *testing.T) {
			draw := draws[typ]
			if draw == nil {
				t.Fatal("no generator for this type")
			}
			f(t, draw)
		})
	}
}

// TestTheLongestFit: a message whose every string is as long as it may be is not refused at the other end for its size.
func TestTheLongestFit(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, m := range []wire.Message{
		&wire.Hello{MinVersion: 1, MaxVersion: 1, Host: long(wire.MaxHost), Program: long(wire.MaxProgram)},
		&wire.Welcome{Version: 1, Host: long(wire.MaxHost), Program: long(wire.MaxProgram)},
		&wire.Error{Code: wire.CodeInternal, Text: long(wire.MaxErrorText)},
		&wire.Open{Name: long(wire.MaxDiskName), Host: long(wire.MaxHost), Size: 1, BlockSize: 4096},
		&wire.Query{Disk: long(wire.MaxSelector), Point: long(wire.MaxSelector)},
		&wire.Command{Disk: long(wire.MaxSelector), Point: long(wire.MaxSelector)},
		&wire.Read{Disk: long(wire.MaxSelector), Point: long(wire.MaxSelector)},
		&wire.ScanReply{Range: block.Range{Len: 1}, Digests: make([]block.Digest, wire.MaxScanDigests)},
		&wire.Enroll{Host: long(wire.MaxHost), Program: long(wire.MaxProgram), Request: make([]byte, wire.MaxDER)},
		&wire.Granted{Certificate: make([]byte, wire.MaxDER), CAs: slices.Repeat([][]byte{make([]byte, wire.MaxDER)}, wire.MaxCAs)},
		&wire.Invite{Host: long(wire.MaxHost), TTL: wire.MaxTokenTTL, Receiver: long(wire.MaxAddress)},
		&wire.Revoke{Name: long(wire.MaxHost)},
	} {
		raw, err := wire.Append(nil, m)
		if err != nil {
			t.Errorf("%v: %v", m.Type(), err)
			continue
		}
		if _, n, err := wire.Parse(raw); err != nil || n != len(raw) {
			t.Errorf("%v of %d bytes: %d taken, %v", m.Type(), len(raw), n, err)
		}
	}
}

func TestEveryMessageSurvivesTheRoundTrip(t *testing.T) {
	everyType(t, func(t *testing.T, draw func(*rapid.T) wire.Message) {
		rapid.Check(t, func(t *rapid.T) {
			m := draw(t)
			raw, err := wire.Append([]byte("before"), m)
			if err != nil {
				t.Fatal(err)
			}
			raw = raw[6:]
			got, n, err := wire.Parse(append(bytes.Clone(raw), "after"...))
			if err != nil || n != len(raw) {
				t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
			}
			if !reflect.DeepEqual(got, m) {
				t.Fatalf("sent %+v, came back %+v", m, got)
			}
			if wire.UnitOf(raw[0]) != wire.UnitMessage {
				t.Fatal("not told to be a message by its first byte")
			}
		})
	})
}

// TestWhatIsAcceptedHasOneEncoding damages messages: what Parse still accepts must be the encoding of what it gives, and a
// message that is cut short is never accepted.
func TestWhatIsAcceptedHasOneEncoding(t *testing.T) {
	everyType(t, func(t *testing.T, draw func(*rapid.T) wire.Message) {
		rapid.Check(t, func(t *rapid.T) {
			raw, err := wire.Append(nil, draw(t))
			if err != nil {
				t.Fatal(err)
			}
			n := rapid.IntRange(0, len(raw)-1).Draw(t, "cut")
			if _, _, err := wire.Parse(raw[:n:n]); !errors.Is(err, wire.ErrProtocol) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(raw), err)
			}
			raw[rapid.IntRange(0, len(raw)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			checkCanonical(t, raw)
		})
	})
}

type failer interface{ Fatalf(string, ...any) }

func checkCanonical(t failer, raw []byte) {
	m, n, err := wire.Parse(raw)
	if err != nil {
		if !errors.Is(err, wire.ErrProtocol) {
			t.Fatalf("refused otherwise than as a violation: %v", err)
		}
		return
	}
	again, err := wire.Append(nil, m)
	if err != nil {
		t.Fatalf("%+v was accepted and does not encode: %v", m, err)
	}
	switch m.Type() {
	case wire.TypeHello, wire.TypeWelcome, wire.TypeError: // may be longer than this version knows
		if len(again) > n || !bytes.Equal(again[wire.HeadSize:], raw[wire.HeadSize:len(again)]) {
			t.Fatalf("%+v encodes to other bytes", m)
		}
	default:
		if !bytes.Equal(again, raw[:n]) {
			t.Fatalf("%+v encodes to other bytes", m)
		}
	}
}

func FuzzParse(f *testing.F) {
	for typ, draw := range draws {
		for i := range 3 {
			raw, err := wire.Append(nil, rapid.Custom(draw).Example(i))
			if err != nil {
				f.Fatalf("%v: %v", typ, err)
			}
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkCanonical(t, raw) })
}

func TestGreetingsMayGrow(t *testing.T) {
	for _, m := range []wire.Message{
		&wire.Hello{MinVersion: 1, MaxVersion: 9, Host: "web1", Time: time.Unix(1, 0).UTC()},
		&wire.Welcome{Version: 1, Time: time.Unix(1, 0).UTC()},
		&wire.Error{Code: 900, Text: "of a later version"},
	} {
		raw, _ := wire.Append(nil, m)
		raw = append(raw, "what a later version says"...)
		binary.LittleEndian.PutUint32(raw[4:], uint32(len(raw)-wire.HeadSize))
		if got, n, err := wire.Parse(raw); err != nil || n != len(raw) || !reflect.DeepEqual(got, m) {
			t.Errorf("%v: %+v, %d, %v", m.Type(), got, n, err)
		}
	}
	raw, _ := wire.Append(nil, &wire.Ack{Seq: 1})
	raw = append(raw, 0)
	binary.LittleEndian.PutUint32(raw[4:], uint32(len(raw)-wire.HeadSize))
	if _, _, err := wire.Parse(raw); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("an ack that is too long: %v", err)
	}
}

// TestStatedLengthIsCheckedFirst gives heads that state too much, without a body: none may be believed.
func TestStatedLengthIsCheckedFirst(t *testing.T) {
	for b := 0x80; b < 256; b++ {
		head := []byte{byte(b), 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
		if _, n, err := wire.ParseHead(head); !errors.Is(err, wire.ErrProtocol) {
			t.Errorf("%v: a body of 4 GiB gives %d, %v", wire.Type(b), n, err)
		}
	}
	raw, _ := wire.Append(nil, &wire.Ack{Seq: 1})
	for i, name := range []string{"", "flags", "first zero", "second zero"} {
		if i == 0 {
			continue
		}
		bad := bytes.Clone(raw)
		bad[i] = 1
		if _, _, err := wire.Parse(bad); !errors.Is(err, wire.ErrProtocol) {
			t.Errorf("%s set: %v", name, err)
		}
	}
}

func TestMessagesBeyondTheLimitsAreNotSent(t *testing.T) {
	long := strings.Repeat("x", 1<<17)
	for name, m := range map[string]wire.Message{
		"hello without versions":   &wire.Hello{},
		"hello of a long host":     &wire.Hello{MinVersion: 1, MaxVersion: 1, Host: long},
		"welcome without version":  &wire.Welcome{},
		"welcome of a long host":   &wire.Welcome{Version: 1, Host: long},
		"error that is long":       &wire.Error{Code: 1, Text: long},
		"error that is not UTF-8":  &wire.Error{Code: 1, Text: "\xff"},
		"open of no size":          &wire.Open{BlockSize: 4096},
		"open of a huge disk":      &wire.Open{Size: block.MaxDiskSize + 1, BlockSize: 4096},
		"open of odd blocks":       &wire.Open{Size: 1, BlockSize: 4095},
		"open of a long name":      &wire.Open{Size: 1, BlockSize: 4096, Name: long},
		"open that knows nothing":  &wire.Open{Size: 1, BlockSize: 4096, KnownDigest: block.Digest{1}},
		"opened of a negative tip": &wire.Opened{TipSize: -1},
		"opened, point, no delta":  &wire.Opened{HasPoint: true},
		"ack of nothing":           &wire.Ack{},
		"scan of nothing":          &wire.ScanRequest{Chunk: 65536, Group: 1},
		"scan in groups of none":   &wire.ScanRequest{Chunk: 4096, Range: block.Range{Len: 4096}},
		"scan in huge groups":      &wire.ScanRequest{Chunk: 4096, Range: block.Range{Len: 4096}, Group: wire.MaxScanDigests + 1},
		"scan in tiny chunks":      &wire.ScanRequest{Chunk: 1, Range: block.Range{Len: 4096}, Group: 1},
		"scan in huge chunks":      &wire.ScanRequest{Chunk: wire.MaxScanChunk + 1, Range: block.Range{Len: 4096}, Group: 1},
		"scan of too much":         &wire.ScanRequest{Chunk: 512, Range: block.Range{Len: 512*wire.MaxScanDigests + 1}, Group: 1},
		"scan past any disk":       &wire.ScanRequest{Chunk: 512, Range: block.Range{Off: block.Offset(block.MaxDiskSize), Len: 1}, Group: 1},
		"scan reply of nothing":    &wire.ScanReply{Range: block.Range{Len: 1}},
		"scan reply of too much":   &wire.ScanReply{Range: block.Range{Len: 1}, Digests: make([]block.Digest, wire.MaxScanDigests+1)},
		"query that is long":       &wire.Query{Disk: long},
		"reply that is long":       &wire.Reply{Document: make([]byte, wire.MaxDocument+1)},
		"read past any disk":       &wire.Read{Range: block.Range{Len: block.MaxDiskSize + 1}},
		"read of a long selector":  &wire.Read{Point: long},
		"read start without seal":  &wire.ReadStart{Size: 1},
		"enroll of no host":        &wire.Enroll{Request: []byte{1}},
		"enroll of no key":         &wire.Enroll{Host: "web1"},
		"enroll of a long host":    &wire.Enroll{Host: long, Request: []byte{1}},
		"renew of no key":          &wire.Renew{},
		"renew that is long":       &wire.Renew{Request: make([]byte, wire.MaxDER+1)},
		"granted nothing":          &wire.Granted{},
		"granted an empty CA":      &wire.Granted{Certificate: []byte{1}, CAs: [][]byte{{}}},
		"granted too many CAs":     &wire.Granted{Certificate: []byte{1}, CAs: make([][]byte, wire.MaxCAs+1)},
		"invite for ever":          &wire.Invite{Host: "web1", TTL: wire.MaxTokenTTL + 1},
		"invite for no time":       &wire.Invite{Host: "web1"},
		"invite of nobody":         &wire.Invite{TTL: 1},
		"revoke of nothing":        &wire.Revoke{},
		"revoke of two things":     &wire.Revoke{Name: "web1", Serial: "1"},
	} {
		if raw, err := wire.Append(nil, m); err == nil {
			t.Errorf("%s: encoded to %d bytes", name, len(raw))
		}
	}
}

func TestUnitsAreToldByTheirFirstByte(t *testing.T) {
	h := block.DeltaHeader{Seq: 1, BlockSize: 4096, DiskSize: 4096}
	for name, row := range map[string]struct {
		first byte
		want  wire.Unit
	}{
		"delta header": {h.Append(nil)[0], wire.UnitHeader},
		"data frame":   {block.FrameHeader{Kind: block.FrameData}.Append(nil)[0], wire.UnitFrame},
		"zero frame":   {block.FrameHeader{Kind: block.FrameZero}.Append(nil)[0], wire.UnitFrame},
		"seal":         {block.Seal{Seq: 1}.Append(nil)[0], wire.UnitSeal},
		"zero":         {0, wire.UnitUnknown},
	} {
		if got := wire.UnitOf(row.first); got != row.want {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
}

func TestErrorsAcrossTheWire(t *testing.T) {
	sentinels := []error{
		wire.ErrInternal, wire.ErrProtocol, wire.ErrVersion, wire.ErrForbidden, wire.ErrCertificate, wire.ErrClock,
		wire.ErrShutdown, wire.ErrUnknownDisk, wire.ErrBusy, wire.ErrFenced, wire.ErrTip, wire.ErrNoPoint, wire.ErrNoSpace, wire.ErrCorrupt,
		wire.ErrToken, wire.ErrNoSigner,
	}
	for i, want := range sentinels {
		sent := wire.Errorf(wire.Code(i+1), "on disk %d: %w", i, io.ErrShortWrite)
		if !errors.Is(sent, io.ErrShortWrite) {
			t.Errorf("%v lost its cause", sent)
		}
		raw, err := wire.Append(nil, sent)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := wire.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Errorf("open disk: %w", m.(*wire.Error))
		for j, other := range sentinels {
			if errors.Is(got, other) != (i == j) {
				t.Errorf("%v is %v: %v", got, other, i != j)
			}
		}
		if !errors.Is(got, want) || !strings.Contains(got.Error(), sent.Text) {
			t.Errorf("%v does not say %q", got, sent.Text)
		}
	}
	e := &wire.Error{Code: wire.CodeBusy, Text: "a\x1b[2Jb\nc"}
	if got := e.Error(); strings.ContainsAny(got, "\x1b\n") {
		t.Errorf("control characters pass: %q", got)
	}
	if got := wire.Errorf(wire.CodeBusy, "%s", strings.Repeat("é", wire.MaxErrorText)); got.Check() != nil {
		t.Errorf("a long text is not cut: %v", got.Check())
	}
}

func TestVersionsAgreeOrSayWhoIsTooOld(t *testing.T) {
	for name, row := range map[string]struct {
		low, high uint16 // of the hello
		want      uint16
		says      string
	}{
		"the same":       {3, 5, 5, ""},
		"newer dialer":   {5, 9, 5, ""},
		"older dialer":   {1, 3, 3, ""},
		"dialer too old": {1, 2, 0, "upgrade web1"},
		"this too old":   {6, 9, 0, "upgrade this end"},
	} {
		m := &wire.Hello{MinVersion: row.low, MaxVersion: row.high, Host: "web1"}
		got, err := m.Agree(3, 5)
		if got != row.want || (err == nil) != (row.says == "") {
			t.Errorf("%s: %d, %v", name, got, err)
		}
		if err != nil && (!errors.Is(err, wire.ErrVersion) || !strings.Contains(err.Error(), row.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
