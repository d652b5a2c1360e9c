package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/internal/block"
)

// A record is a small file of three lines of text: magic and version, one JSON object, the CRC-32C of the two lines before.
// It is replaced as a whole: see writeRecord.
//
//	USFOLDED 1
//	{"seq":7,…}
//	crc32c 1f2e3d4c

// The records of a journal.
const (
	metaName      = "journal.json"
	positionName  = "folded.json"
	pinsName      = "pins.json"
	metaMagic     = "USJOURNAL"
	positionMagic = "USFOLDED"
	pinsMagic     = "USPINS"

	// Version is the version of a journal's directory that this code writes, and the newest that it reads. A release that
	// stores anything in a new way raises it.
	//
	//	1: the first
	Version = 1

	// maxRecord bounds a record: a position holds a seal, whose labels escape to six bytes for one at worst. Pins at their
	// most, each with 20 digits and a comma, take less.
	maxRecord = 8 * block.MaxSealSize

	tmpSuffix = ".tmp"
)

// encodeRecord is the record's text.
func encodeRecord(magic string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, "%s %d\n%s\n", magic, Version, body)
	return fmt.Appendf(text, "crc32c %08x\n", crc32.Checksum(text, block.Castagnoli)), nil
}

// decodeRecord reads a record's text into v.
func decodeRecord(text []byte, magic string, v any) error {
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	var version int
	if n, err := fmt.Sscanf(string(first), magic+" %d", &version); n != 1 || err != nil || string(first) != fmt.Sprintf("%s %d", magic, version) {
		return fmt.Errorf("does not begin with %s and a version: %w", magic, block.ErrMalformed)
	}
	if version > Version {
		return fmt.Errorf("format version %d, this release reads up to %d: install the release that wrote it, or start on another directory: %w",
			version, Version, block.ErrVersion)
	}
	body, tail, _ := bytes.Cut(rest, []byte("\n"))
	end := len(first) + 1 + len(body) + 1
	if end > len(text) || string(tail) != fmt.Sprintf("crc32c %08x\n", crc32.Checksum(text[:end], block.Castagnoli)) {
		return block.ErrChecksum
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%v: %w", err, block.ErrMalformed)
	}
	return nil
}

// readRecord reads dir/name into v.
func readRecord(fsys FS, path, magic string, v any) error {
	f, err := fsys.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > int64(maxRecord) {
		return &block.CorruptionError{File: path, Err: fmt.Errorf("a record of %d bytes: %w", size, block.ErrMalformed)}
	}
	text := make([]byte, size)
	if _, err := f.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	err = decodeRecord(text, magic, v)
	if errors.Is(err, block.ErrVersion) {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return &block.CorruptionError{File: path, Err: err}
	}
	return nil
}

// writeRecord replaces dir/name: a new file beside it, synced, renamed over it, and the directory synced. A crash leaves the
// old record or the new, and the new one for sure once it has returned nil. After an error either may be there.
func writeRecord(fsys FS, path, magic string, v any) error {
	text, err := encodeRecord(magic, v)
	if err != nil {
		return err
	}
	if err := writeWhole(fsys, path+tmpSuffix, text); err != nil {
		if e := fsys.Remove(path + tmpSuffix); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return err
	}
	if err := fsys.Rename(path+tmpSuffix, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

func writeWhole(fsys FS, path string, text []byte) error {
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// isTemporary tells whether a crash may have left the file behind in the middle of something: nothing refers to it.
func isTemporary(name string) bool {
	return slices.ContainsFunc([]string{tmpSuffix, openSuffix, spillSuffix, sortSuffix}, func(suffix string) bool {
		return strings.HasSuffix(name, suffix)
	})
}
