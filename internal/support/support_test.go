package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// newKey is a private key in PEM, and the number in it.
func newKey(t *testing.T) (text, number []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		number, err = key.Bytes()
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), number
}

// TestASecretThatIsKnown is found in every encoding, wherever it begins, even where digests may stay.
func TestASecretThatIsKnown(t *testing.T) {
	text, number := newKey(t)
	block, _ := pem.Decode(text)
	lines := strings.Split(string(text), "\n")
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(foreign)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRedactor(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for name, planted := range map[string]string{
		"number in hexadecimal": hex.EncodeToString(number),
		"in capitals":           strings.ToUpper(hex.EncodeToString(number)),
		"in base64":             base64.StdEncoding.EncodeToString(number),
		"in base64 for URLs":    base64.RawURLEncoding.EncodeToString(number),
		"one byte later":        base64.StdEncoding.EncodeToString(append([]byte("x"), number...)),
		"two bytes later":       base64.StdEncoding.EncodeToString(append([]byte("xy"), number...)),
		"three and some after":  base64.StdEncoding.EncodeToString(append(append([]byte("xyz"), number...), "tail"...)),
		"as it is":              string(number),
		"DER":                   string(block.Bytes),
		"a line of PEM":         lines[2],
		"a key of another kind": hex.EncodeToString(der),
	} {
		got := string(r.Own([]byte("before " + planted + " after")))
		core := planted[4 : len(planted)-6] // base64 of neighbours may stay
		if strings.Contains(got, core) || !strings.Contains(got, gone) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %q became %q", name, planted, got)
		}
	}
}

// TestWhatLooksLikeASecret is redacted by a Redactor that knows none; the rest of the line stays.
func TestWhatLooksLikeASecret(t *testing.T) {
	key, _ := newKey(t)
	other := strings.ReplaceAll(string(key), "\n", `\n`)
	const secret = "hunter2hunter2"
	for _, row := range []struct{ name, text, want string }{
		{"token", "enroll --token understudy1-AbC_d-9 now", "enroll --token <redacted> now"},
		{"token in prose", `got "understudy1-AbC_d-9"`, `got "understudy1-<redacted>"`},
		{"assignment", "x password=" + secret + " y", "x password=<redacted> y"},
		{"after a word of its kind", "token password=" + secret, "token password=<redacted>"},
		{"flag", "mysql --password " + secret + " db", "mysql --password <redacted> db"},
		{"quoted", `DB_PASSWORD = "` + secret + ` and more" z`, `DB_PASSWORD = "<redacted>" z`},
		{"JSON", `{"api_key":"` + secret + `","n":1}`, `{"api_key":"<redacted>","n":1}`},
		{"JSON in a log", `msg="{\"secret\": \"` + secret + `\", \"n\": 1}"`, `msg="{\"secret\": \"<redacted>\", \"n\": 1}"`},
		{"object", `{"token":{"a":1}}`, `{"token":{"a":1}}`},
		{"header", "Authorization: Bearer " + secret, "Authorization: <redacted>"},
		{"bearer", "sent bearer " + secret, "sent bearer <redacted>"},
		{"URL", "postgres://ann:" + secret + "@db:5432/x", "postgres://ann:<redacted>@db:5432/x"},
		{"base64", "blob " + base64.StdEncoding.EncodeToString([]byte("0123456789 0123456789 0123456789!")) + " end", "blob <redacted> end"},
		{"hexadecimal", "sum " + strings.Repeat("0a", 32) + " end", "sum <redacted> end"},
		{"key in a line", `err="` + other + `" n=1`, "err=\"<redacted>\n\\n\" n=1"},
		{"key over lines", "a: " + strings.ReplaceAll(strings.TrimSpace(string(key)), "\n", "\na: ") + "\na: next", "a: <redacted>\n\na: next"},
		{"key without an end", "a " + string(key[:100]), "a <redacted>\n"},
		{"id", "disk a813c2ef-50e0-43a0-91ef-7d76b8bc6eec serial 6ef6608edb0f2bdce55ea1288a4a6bf3", "disk a813c2ef-50e0-43a0-91ef-7d76b8bc6eec serial 6ef6608edb0f2bdce55ea1288a4a6bf3"},
		{"path", "/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda", "/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda"},
	} {
		if got := string(NewRedactor().Text([]byte(row.text))); got != row.want {
			t.Errorf("%s: %q\nbecame %q\nwant   %q", row.name, row.text, got, row.want)
		}
	}
}

// TestJSONStaysJSON: an engineer reads it with tools.
func TestJSONStaysJSON(t *testing.T) {
	raw, err := json.Marshal(map[string]any{"token": "a\"b\\", "password": 7, "secret": []string{"x", "y"}, "error": `tls: "password=abc" {token: 1}`, "credential": nil})
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(NewRedactor().Text(raw), &v); err != nil {
		t.Errorf("%s: %v", NewRedactor().Text(raw), err)
	}
}

// TestAConfiguration: only keys that were thought of show their values.
func TestAConfiguration(t *testing.T) {
	got := NewRedactor().Config(`
# password of the database: hunter2
disks = ["/dev/sda", "/dev/sdb"]
interval = "5s"
receiver = "vault:443?token=hunter2"
invented = "hunter2"
[log]
level = "info"
[[application]]
name = "db"
freeze = "mysql -phunter2"
env = { PGPASSWORD = "hunter2" }
`, []string{"disks", "interval", "receiver", "freeze", "log.level", "application.name"})
	want := `application.0.env.PGPASSWORD = <redacted>
application.0.freeze = <redacted>
application.0.name = "db"
disks = ["/dev/sda","/dev/sdb"]
interval = "5s"
invented = <redacted>
log.level = "info"
receiver = "vault:443?token=<redacted>"
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := NewRedactor().Config("a = 1\nb = hunter2 oops", nil); strings.Contains(got, "hunter2") || !strings.Contains(got, "line 2") {
		t.Errorf("what is no TOML became %q", got)
	}
}

// TestABundle unpacks one: what failed and what was too long is said, and the rest is there.
func TestABundle(t *testing.T) {
	say := func(text string, err error) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(text), err }
	}
	long := strings.Repeat("x y\n", mostItem/4) + "the end"
	items := []Item{
		{Name: "a.txt", Why: "because", Collect: say("password=abc", nil)},
		{Name: "half.txt", Why: "some", Collect: say("some", errors.New("no more: token=abc"))},
		{Name: "none.txt", Why: "nothing", Collect: func(context.Context) ([]byte, error) { return nil, errors.New("not there") }},
		{Name: "long.txt", Why: "much", Own: true, Collect: say(long, nil)},
		{Name: "empty.txt", Why: "silence", Collect: say("", nil)},
	}
	var file bytes.Buffer
	entries, err := Pack(t.Context(), &file, "bundle", items, NewRedactor())
	if err != nil || len(entries) != len(items) {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	got := unpack(t, &file)
	for name, want := range map[string]string{"a.txt": "password=<redacted>", "half.txt": "some", "long.txt": long[len(long)-mostItem:], "empty.txt": ""} {
		if text, ok := got["bundle/"+name]; !ok || text != want {
			t.Errorf("%s holds %.80q, want %.80q", name, text, want)
		}
	}
	if _, ok := got["bundle/none.txt"]; ok || len(got) != 5 {
		t.Errorf("%d files", len(got))
	}
	for _, want := range []string{"a.txt", "because", "left out of none.txt: not there", "left out of half.txt: no more: token=<redacted>", fmt.Sprintf("left out of long.txt: the first %d bytes", len(long)-mostItem)} {
		if !strings.Contains(got["bundle/MANIFEST"], want) {
			t.Errorf("the manifest does not say %q:\n%s", want, got["bundle/MANIFEST"])
		}
	}
}

func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(in)
		if err != nil || h.Mode != 0o600 {
			t.Fatalf("%s: mode %o, %v", h.Name, h.Mode, err)
		}
		got[h.Name] = string(raw)
	}
}

// FuzzText: no line of a known key, and no password, gets through whatever is around it.
func FuzzText(f *testing.F) {
	f.Add([]byte("before "), []byte(" after"))
	f.Add([]byte("token "), []byte("\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----"), []byte(`"`))
	const line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1234567890abcdef"
	f.Fuzz(func(t *testing.T, before, after []byte) {
		got := NewRedactor([]byte(line + "\n")).Text(bytes.Join([][]byte{before, []byte(line), after}, nil))
		if bytes.Contains(got, []byte(line)) {
			t.Errorf("%q", got)
		}
	})
}
