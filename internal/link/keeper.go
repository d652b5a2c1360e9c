package link

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/internal/link/pki"
)

// Keeper keeps the credentials in a folder current: what is renewed, trusted or revoked there counts without a restart,
// within a few seconds. Sessions that begin use what is current then; those under way go on, unless their peer's certificate
// does not stand any more.
type Keeper struct {
	dir  string
	crls []string
	log  *slog.Logger
	now  atomic.Pointer[Credentials]

	renewed atomic.Int64 // how often this end's own certificate was replaced

	mu    sync.Mutex
	seen  string // what the files looked like when they were read
	wrong string // what was last said of files that are no good
}

// NewKeeper loads the folder, as LoadCredentials does. It starts nothing.
func NewKeeper(dir string, log *slog.Logger, crls ...string) (*Keeper, error) {
	k := &Keeper{dir: dir, crls: crls, log: log}
	k.seen = k.look()
	c, err := LoadCredentials(dir, crls...)
	if err != nil {
		return nil, err
	}
	k.now.Store(c)
	return k, nil
}

// Current are the credentials to begin a session with.
func (k *Keeper) Current() *Credentials { return k.now.Load() }

// Dir is the host's folder.
func (k *Keeper) Dir() string { return k.dir }

// Run reloads the files when they change, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(folderEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.Reload()
		}
	}
}

// Reload reads the files if they changed. Files that are no good leave what was: half of a change must not stop a site. That
// is said in the log, once for each reason.
func (k *Keeper) Reload() {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := k.look()
	if seen == k.seen {
		return
	}
	old := k.now.Load()
	c, err := readCredentials(k.dir, k.crls...)
	if err != nil {
		k.complain("the credentials changed and can't be read: going on with those from before", err)
		return // and look again: a file may be half written
	}
	k.seen = seen
	id, err := c.trust.verify([]*x509.Certificate{c.cert.Leaf}, time.Now())
	if err != nil { // what is trusted and revoked counts all the same
		k.complain("this end's own certificate is no good: going on with the one from before", err)
		k.now.Store(&Credentials{Name: old.Name, Roles: old.Roles, cert: old.cert, trust: c.trust})
		return
	}
	k.wrong = ""
	if !c.cert.Leaf.Equal(old.cert.Leaf) {
		k.renewed.Add(1)
	}
	c.Name, c.Roles = id.name, id.roles
	k.now.Store(c)
	k.log.Info("credentials reloaded", "name", c.Name, "serial", pki.Serial(c.cert.Leaf), "until", stamp(c.cert.Leaf.NotAfter),
		"changed", !c.cert.Leaf.Equal(old.cert.Leaf), "cas", len(c.trust.cas), "revoked", len(c.trust.revoked))
}

func (k *Keeper) complain(msg string, err error) {
	if err.Error() != k.wrong {
		k.wrong = err.Error()
		k.log.Error(msg, "err", err)
	}
}

// look tells one state of the files from another.
func (k *Keeper) look() string {
	var b strings.Builder
	for _, file := range []string{pki.CACertFile, pki.HostCertFile, pki.HostKeyFile, pki.CRLFile} {
		mark(&b, filepath.Join(k.dir, file))
	}
	for _, path := range k.crls {
		mark(&b, path)
	}
	return b.String()
}

func mark(b *strings.Builder, path string) {
	info, err := os.Stat(path)
	if err != nil {
		fmt.Fprintln(b, "none")
		return
	}
	fmt.Fprintln(b, info.Size(), info.ModTime().UnixNano(), info.Mode(), inode(info))
}
