package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/link/pki"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Identity is a folder with a certificate. Its checks load it for those after them.
type Identity struct {
	Dir   string
	Role  wire.Role // that the certificate must allow; 0: that of any person
	CRLs  []string  // lists of revoked certificates besides the folder's own
	Anew  string    // the command that gets a certificate anew
	Owner string    // a file or folder of the user who must be able to read the key; "": whoever runs the check

	loaded atomic.Pointer[loading] // a check that hung may still be at it
}

// loading is what came of reading the folder.
type loading struct {
	*link.Credentials // nil: err says why
	err               error
}

// credentials are what the certificate's check has loaded, nil if it could not.
func (i *Identity) credentials() *link.Credentials {
	if l := i.loaded.Load(); l != nil {
		return l.Credentials
	}
	return nil
}

// Serial is the certificate's, "" if it could not be loaded.
func (i *Identity) Serial() string {
	if own := i.credentials(); own != nil {
		return pki.Serial(own.Certificate())
	}
	return ""
}

// soon is how long before its end a CA is warned of: time enough to replace it on a fleet.
const soon = 90 * 24 * time.Hour

// asRoot is the way out of a check that may not look.
const asRoot = "run it as root"

// Checks are those of the key and of the certificate.
func (i *Identity) Checks() []Check {
	return []Check{{"key", i.checkKey}, {"certificate", i.checkCertificate}, {"revoked", i.checkRevoked}}
}

// checkKey holds that the key is there, that its user can read it, and nobody else.
func (i *Identity) checkKey(context.Context) Finding {
	path := filepath.Join(i.Dir, pki.HostKeyFile)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Bad(i.Anew, "%s is missing", path)
	case errors.Is(err, fs.ErrPermission):
		return NotMade(asRoot, "%v", err)
	case err != nil:
		return Bad(i.Anew, "%v", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Bad("chmod 600 "+path+"; if others have read it: "+i.Anew, "%s can be read by others (mode %04o)", path, mode)
	}
	if i.Owner != "" {
		owner, err := os.Stat(i.Owner)
		if err == nil && uid(owner) != 0 && uid(owner) != uid(info) {
			return Bad(fmt.Sprintf("chown %d %s", uid(owner), path), "%s belongs to user %d, and the daemon, by its folder %s, is user %d", path, uid(info), i.Owner, uid(owner))
		}
	}
	return Good("%s, mode %04o", path, info.Mode().Perm())
}

func uid(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}

// checkCertificate holds the certificate against the folder's CAs, the clock, and what it is for.
func (i *Identity) checkCertificate(context.Context) Finding {
	own, err := link.LoadCredentials(i.Dir, i.CRLs...)
	i.loaded.Store(&loading{own, err})
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return NotMade(asRoot, "%v", err)
		}
		return Bad(i.wayOut(err), "%v", err)
	}
	c := own.Certificate()
	ca := pki.SignerOf(c, own.CAs())
	what := fmt.Sprintf("%s, %v, of %s", own.Name, own.Roles, ca.Subject.CommonName)
	switch {
	case i.Role != 0 && !slices.Contains(own.Roles, i.Role):
		return Bad(i.Anew, "%s: it is not for a %v", what, i.Role)
	case i.Role == 0 && !slices.ContainsFunc(own.Roles, wire.Role.Person):
		return Bad("name a person's folder with --pki; "+i.Anew, "%s: it is not for a person", what)
	case time.Until(ca.NotAfter) < soon:
		return Doubtful("docs/OPERATING.md, Certificates: The CA is lost, or has to go", "%s, which expires at %s", what, date(ca.NotAfter))
	case time.Now().After(own.Due()):
		return Doubtful(i.Anew, "%s: it expires at %s, and should have been renewed at %s", what, date(c.NotAfter), date(own.Due()))
	}
	return Good("%s, good until %s", what, date(c.NotAfter))
}

// wayOut of a certificate that is no good.
func (i *Identity) wayOut(err error) string {
	if errors.Is(err, wire.ErrClock) {
		return setClock
	}
	return i.Anew
}

// checkRevoked says what is known here of revoked certificates.
func (i *Identity) checkRevoked(context.Context) Finding {
	own := i.credentials()
	if own == nil {
		return NotMade("first the certificate", "no certificate is loaded")
	}
	n, lists := 0, 0
	for _, path := range append(slices.Clone(i.CRLs), filepath.Join(i.Dir, pki.CRLFile)) {
		revoked, err := pki.ReadRevocations(own.CAs(), path)
		if err != nil {
			return Bad("copy "+pki.CRLFile+" from the CA's folder again", "%v", err)
		}
		if _, err := os.Stat(path); err == nil {
			lists++
		}
		n += len(revoked)
	}
	if lists == 0 {
		return Good("no list of revoked certificates here: the receiver's counts")
	}
	return Good("%d revoked certificates known", n)
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }
