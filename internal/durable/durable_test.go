package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestReplace: what a crash left of an earlier try does not matter, and a try that fails leaves what was there.
func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(path+".tmp", []byte("{\"ver"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		if err := Replace(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := os.MkdirAll(path+".tmp/in the way", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, []byte("third"), 0o600); err == nil {
		t.Error("written where it can't be")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "second" {
		t.Errorf("%q, %v", got, err)
	}
	if err := Create(path, nil, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created over another file: %v", err)
	}
}

// TestTheOwnerOfAFolderOwnsWhatRootPutsThere: files and folders; one that is not root's business stays as it is.
func TestTheOwnerOfAFolderOwnsWhatRootPutsThere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	const uid, gid = 65534, 65533
	for _, want := range [][2]int{{uid, gid}, {0, 0}} {
		dir := t.TempDir()
		if err := os.Chown(dir, want[0], want[1]); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "folder", "file")
		if err := errors.Join(MakeFolder(filepath.Dir(path), 0o700), MakeFolder(filepath.Dir(path), 0o700), Replace(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{path, filepath.Dir(path)} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != want[0] || int(st.Gid) != want[1] {
				t.Errorf("%s belongs to %d:%d, its folder to %v", path, st.Uid, st.Gid, want)
			}
		}
	}
}
