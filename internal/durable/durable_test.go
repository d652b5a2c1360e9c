package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
