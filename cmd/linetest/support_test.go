package linetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/link/pki"
)

// forms are the shapes in which a secret may get out.
func forms(secret []byte) (all [][]byte) {
	all = [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret)))}
	for shift := range 3 {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, shift), secret...))
			all = append(all, []byte(text[4:len(text)-4]))
		}
	}
	return all
}

// keySecrets are what must not get out of a key file: its lines, its bytes, its number.
func keySecrets(t *testing.T, path string) (all [][]byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	number, err := key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n")[1:] {
		if !strings.HasPrefix(line, "-----") {
			all = append(all, []byte(line))
		}
	}
	return append(append(all, forms(number)...), forms(block.Bytes)...)
}

// unpack reads a bundle; the names are those below its one folder.
func unpack(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		if all[name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

// planted is a site with secrets wherever an operator may have put them, and what they are.
type planted struct {
	*site
	dev, id, agent, vault string
	secrets               map[string][][]byte
}

const dataOfADisk = "this is what a customer keeps on the disk"

func plant(t *testing.T) planted {
	s := newSite(t, "tcp")
	dev := s.loopDisk("disk", 8<<20)
	must(t, "sh", "-c", "yes '"+dataOfADisk+"' | dd of="+dev+" bs=64k count=16 iflag=fullblock conv=notrunc")
	agent, vault := s.patients(dev)
	s.startReceiver("--ca", s.path("ca"))
	s.startAgent(dev)
	s.nextPoint(dev)
	status, _ := s.status(dev)
	p := planted{site: s, dev: dev, id: status.ID.String(), agent: agent, vault: vault}

	token, late := s.token("web2"), s.token("web3")
	parsed, err := pki.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	const password = "correct-horse-battery"
	p.secrets = map[string][][]byte{
		"CA's key":     keySecrets(t, filepath.Join(s.path("ca"), pki.CAKeyFile)),
		"host's key":   keySecrets(t, filepath.Join(s.path("source"), pki.HostKeyFile)),
		"target's key": keySecrets(t, filepath.Join(s.path("target"), pki.HostKeyFile)),
		"token":        append(forms(parsed.Secret[:]), []byte(token[20:])),
		"second token": {[]byte(late[20:])},
		"password":     forms([]byte(password)),
		"disk's data":  {[]byte(dataOfADisk)},
	}
	key, err := os.ReadFile(filepath.Join(s.path("target"), pki.HostKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	more := fmt.Sprintf("# the token was %s\n[[application]]\nname = \"db\"\npre_freeze = \"/usr/bin/hook\"\nenv = { PGPASS = %q }\nfreeze = [\"mysql\", \"-p%s\"]\n", token, password, password)
	appendTo(t, agent, more)
	appendTo(t, vault, fmt.Sprintf("ca = %q\n# %s\n", s.path("ca"), strings.ReplaceAll(strings.TrimSpace(string(key)), "\n", "\n# ")))
	appendTo(t, filepath.Join(s.path("ca"), pki.LedgerFile), fmt.Sprintf("{\"version\":1,\"event\":\"issued\",\"name\":\"x\",\"detail\":\"with %s\"}\n", token))
	// journalctl is the one source of logs, and a machine that builds has none.
	log := fmt.Sprintf("2026-01-01 web1 understudy-agent[1]: msg=enrolling token=%s args=\"--token %s\"\n", token, late)
	log += "2026-01-01 web1 understudy-agent[1]: hook failed: mysql --password=" + password + " 'postgres://ann:" + password + "@db/x'\n"
	for line := range strings.Lines(string(key)) {
		log += "2026-01-01 web1 understudy-agent[1]: " + line
	}
	log += "2026-01-01 web1 understudy-agent[1]: the last line\n"
	s.file(s.path("log"), log)
	if err := os.Mkdir(s.path("path"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.file(s.path("path/journalctl"), "#!/bin/sh\necho called with \"$@\"\ncat "+s.path("log")+"\n")
	must(t, "chmod", "755", s.path("path/journalctl"))
	return p
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// bundle packs one, with a configuration file, and unpacks it.
func (p planted) bundle(config, name string) map[string][]byte {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "understudy"), p.remote("support-bundle", "-o", p.path(name), "--config", config)...)
	cmd.Env = append(os.Environ(), "PATH="+p.path("path")+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(p.path(name))
	if err != nil || info.Mode().Perm() != 0o600 {
		p.t.Fatalf("mode %v, %v: want 0600", info.Mode(), err)
	}
	return unpack(p.t, p.path(name))
}

// TestABundleHasNoSecrets plants secrets and looks for them in what is unpacked, and holds that what is of use is there.
func TestABundleHasNoSecrets(t *testing.T) {
	p := plant(t)
	for _, row := range []struct {
		config, name string
		has          map[string][]string
	}{
		{p.agent, "agent.tar.gz", map[string][]string{
			"MANIFEST": {"versions.txt", "agent/log.txt", "its unit's log"}, "versions.txt": {"understudy-agent", "Linux version"},
			"doctor.json": {`"check": "kernel"`, "vault"}, "agent/status.json": {p.id, "ebpf"}, "agent/state.txt": {p.id},
			"agent/config.txt":   {fmt.Sprintf("disks = [%q]", p.dev), "application.0.env.PGPASS = <redacted>", `application.0.pre_freeze = "/usr/bin/hook"`, "application.0.freeze = <redacted>"},
			"agent/log.txt":      {"--unit understudy-agent", "--since", "token=<redacted>", "--password=<redacted>", "ann:<redacted>@db/x", "the last line"},
			"certificates.txt":   {`"name":"web1"`, `"is":"CA"`, "mode 0644"},
			"kernel/mounts.txt":  {"/proc/self/mountinfo", " / "},
			"kernel/disks.txt":   {filepath.Base(p.dev), "queue/scheduler"},
			"kernel/pins.txt":    {p.id + "/0/done0"},
			"remote/points.json": {p.id, `"class": "crash"`}, "remote/status.json": {`"journal_bytes"`},
		}},
		{p.vault, "vault.tar.gz", map[string][]string{
			"receiver/config.txt":   {"dir = ", "listen = "},
			"receiver/journals.txt": {p.id, "bytes in blocks of 4096"},
			"receiver/log.txt":      {"--unit understudy-receiver"},
			"certificates.txt":      {`"name":"vault"`, "ledger.jsonl", "understudy1-<redacted>"},
		}},
	} {
		got := p.bundle(row.config, row.name)
		for file, texts := range row.has {
			for _, text := range texts {
				if !bytes.Contains(got[file], []byte(text)) {
					t.Errorf("%s: %s does not hold %q:\n%.2000s", row.name, file, text, got[file])
				}
			}
		}
		for file, content := range got {
			for what, shapes := range p.secrets {
				for _, shape := range shapes {
					if bytes.Contains(content, shape) {
						t.Errorf("%s: the %s is in %s, as %q", row.name, what, file, shape)
					}
				}
			}
			if strings.HasSuffix(file, ".json") && !json.Valid(content) {
				t.Errorf("%s: %s is no JSON any more:\n%s", row.name, file, content)
			}
		}
	}
}

// TestTheListOfABundle is what a bundle has, and packs nothing; and a file that is there is left alone.
func TestTheListOfABundle(t *testing.T) {
	p := plant(t)
	folder := func() int {
		names, err := os.ReadDir(p.dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := folder()
	list := p.ours(p.remote("support-bundle", "--list", "--config", p.agent, "-o", p.path("never.tar.gz"))...)
	if folder() != before {
		t.Error("--list has made a file")
	}
	for file := range p.bundle(p.agent, "one.tar.gz") {
		if file != "MANIFEST" && !strings.Contains(list, file) {
			t.Errorf("%s is not in the list:\n%s", file, list)
		}
	}
	if folder() != before+1 {
		t.Error("the bundle has left more than itself")
	}
	was, err := os.ReadFile(p.path("one.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run(t, "understudy", "support-bundle", "-o", p.path("one.tar.gz"), "--config", p.agent)
	if now, _ := os.ReadFile(p.path("one.tar.gz")); code != 2 || !strings.Contains(stderr, "is there already") || !bytes.Equal(was, now) {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
