// Package support packs what an engineer needs to see of a machine into one file, without secrets. What is packed comes in as
// Items; nothing gets into the file but through the Redactor.
package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Item is one file of a bundle.
type Item struct {
	Name    string // path in the bundle
	Why     string // for the manifest: what it is, and what it is good for
	Own     bool   // made by our own code of numbers and names: digests in it stay (Redactor.Own, else Text)
	Collect func(ctx context.Context) ([]byte, error)
}

const (
	// mostItem is how many bytes of an item are kept, from the end: of a log that is the newest.
	mostItem = 8 << 20
	// patience is how long an item may take.
	patience = 2 * time.Minute
)

// Entry is what became of an item.
type Entry struct {
	Name string `json:"name"`
	Why  string `json:"why"`
	Size int    `json:"bytes"`
	In   bool   `json:"in"`
	Left string `json:"left_out,omitempty"` // why it is not in, or not all of it

	content []byte
}

// Pack collects the items and writes them as folder NAME of a gzipped tar, the manifest first. What could not be collected is said
// in the manifest; only writing can fail.
func Pack(ctx context.Context, w io.Writer, name string, items []Item, r *Redactor) ([]Entry, error) {
	var entries []Entry
	for _, item := range items {
		entries = append(entries, collect(ctx, item, r))
		if ctx.Err() != nil {
			return entries, ctx.Err()
		}
	}
	zip := gzip.NewWriter(w)
	t := tar.NewWriter(zip)
	now := time.Now()
	put := func(file string, content []byte) error {
		err := t.WriteHeader(&tar.Header{Name: name + "/" + file, Mode: 0o600, Size: int64(len(content)), ModTime: now, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = t.Write(content)
		}
		return err
	}
	err := put("MANIFEST", manifest(name, now, entries))
	for _, e := range entries {
		if err == nil && e.In {
			err = put(e.Name, e.content)
		}
	}
	if err == nil {
		err = t.Close()
	}
	if err == nil {
		err = zip.Close()
	}
	if err != nil {
		return entries, fmt.Errorf("write bundle: %w", err)
	}
	return entries, nil
}

// collect is one item, redacted and bounded.
func collect(ctx context.Context, item Item, r *Redactor) Entry {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	e := Entry{Name: item.Name, Why: item.Why}
	content, err := item.Collect(ctx)
	if err != nil {
		e.Left = strings.TrimSpace(string(r.Text([]byte(err.Error()))))
	}
	if content == nil {
		return e
	}
	// Redacted first: a cut might go through a secret, of which half would not be known.
	if item.Own {
		content = r.Own(content)
	} else {
		content = r.Text(content)
	}
	if over := len(content) - mostItem; over > 0 {
		content = content[over:]
		e.Left = fmt.Sprintf("the first %d bytes", over)
	}
	e.Size, e.In, e.content = len(content), true, content
	return e
}

// manifest lists what is in and why, and what is not.
func manifest(name string, now time.Time, entries []Entry) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s, made at %s\n\nWithout private keys, tokens and data of disks. %s stands for what looked like a secret.\n\n", name, now.UTC().Format(time.RFC3339), gone)
	for _, e := range entries {
		if e.In {
			fmt.Fprintf(&b, "%-28s %9d  %s\n", e.Name, e.Size, e.Why)
		}
	}
	for _, e := range entries {
		if e.Left != "" {
			fmt.Fprintf(&b, "\nleft out of %s: %s", e.Name, e.Left)
		}
	}
	fmt.Fprintln(&b)
	return b.Bytes()
}
