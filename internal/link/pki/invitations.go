package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/durable"
	"github.com/understudy-dr/understudy/internal/wire"
)

// An invitation is what the CA keeps of a token: CA/tokens/ID.json, and CA/tokens/ID.used once it was used. The secret itself
// is not kept.
//
// Single use hangs on ID.used alone. It is made exclusively and is durable, folder included, before a certificate is signed:
// whatever crashes afterwards, the token is spent. A host that lost its certificate on the way gets another token.

// invitation is the file.
type invitation struct {
	Version int       `json:"version"`
	Host    string    `json:"host"`
	Secret  string    `json:"secret_sha256"`
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
}

const (
	tokensFolder      = "tokens"
	invitationVersion = 1
	// keepInvitations is for how long after its end a token is still told from one that never was.
	keepInvitations = 30 * 24 * time.Hour
	// maxInvitations bounds the folder.
	maxInvitations = 10000
)

// Invite makes a token for a host, good for ttl (0: an hour) and one use. by is who wants it, receiver where the host is to
// enroll (may be empty).
func (a *Authority) Invite(host string, ttl time.Duration, by, receiver string) (Token, time.Time, error) {
	fail := func(err error) (Token, time.Time, error) {
		return Token{}, time.Time{}, fmt.Errorf("make token for %s: %w", host, err)
	}
	if ttl == 0 {
		ttl = time.Hour
	}
	if ttl < 0 || ttl > wire.MaxTokenTTL {
		return fail(wire.Errorf(wire.CodeToken, "a token is good for up to %v, not for %v", wire.MaxTokenTTL, ttl))
	}
	if err := checkName(host); err != nil {
		return fail(wire.Errorf(wire.CodeToken, "%w", err))
	}
	if len(receiver) > wire.MaxAddress {
		return fail(wire.Errorf(wire.CodeToken, "a receiver's address of %d bytes", len(receiver)))
	}
	unlock, err := lockFolder(a.dir)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if err := a.sweep(); err != nil {
		return fail(err)
	}
	t := Token{CA: sha256.Sum256(a.cert.Raw), Receiver: receiver}
	rand.Read(t.ID[:])
	rand.Read(t.Secret[:])
	secret := sha256.Sum256(t.Secret[:])
	now := time.Now().UTC()
	in := invitation{
		Version: invitationVersion, Host: host, Secret: hex.EncodeToString(secret[:]), Made: now, Expires: now.Add(ttl), By: by,
	}
	raw, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return fail(err)
	}
	if err := durable.Replace(a.tokenFile(t.Name(), "json"), append(raw, '\n'), 0o600); err != nil {
		return fail(err)
	}
	if err := Record(a.dir, Entry{Event: "invited", Name: host, Token: t.Name(), Until: in.Expires, By: by}); err != nil {
		return fail(err)
	}
	return t, in.Expires, nil
}

func (a *Authority) tokenFile(name, ext string) string {
	return filepath.Join(a.dir, tokensFolder, name+"."+ext)
}

// sweep makes the folder of tokens, and removes those that ended long ago.
func (a *Authority) sweep() error {
	folder := filepath.Join(a.dir, tokensFolder)
	if err := durable.MakeFolder(folder, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	left := 0
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		in, err := a.invitation(name)
		if err != nil || time.Since(in.Expires) < keepInvitations {
			left++
			continue
		}
		// The mark goes last: without the file it says nothing, and with it the token would be good again.
		if err := os.Remove(a.tokenFile(name, "json")); err != nil {
			return err
		}
		if err := os.Remove(a.tokenFile(name, "used")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if left >= maxInvitations {
		return fmt.Errorf("there are %d tokens in %s: remove what is not needed any more", left, folder)
	}
	return nil
}

func (a *Authority) invitation(name string) (in invitation, err error) {
	path := a.tokenFile(name, "json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(raw, &in); err != nil || in.Version != invitationVersion {
		return in, fmt.Errorf("%s is damaged, or of another version (%d): %w", path, in.Version, err)
	}
	return in, nil
}

// another is the way out of every refusal of a token.
const another = "make another with: understudy enroll-token --host "

// redeem spends the token for host, or says why not. What is wrong is a *wire.Error.
func (a *Authority) redeem(id [wire.TokenSize]byte, secret [wire.SecretSize]byte, host, addr string) error {
	name := hex.EncodeToString(id[:])
	in, err := a.invitation(name)
	given := sha256.Sum256(secret[:])
	known, _ := hex.DecodeString(in.Secret)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil || subtle.ConstantTimeCompare(given[:], known) != 1: // whoever guesses an id learns nothing
		return wire.Errorf(wire.CodeToken, "the token is not known here: it is of another CA, or long past; %s%s", another, host)
	case in.Host != host:
		return wire.Errorf(wire.CodeToken, "the token is for %s, and this host goes by %s: enroll with --host %s if that is its name, or %s%s",
			in.Host, host, in.Host, another, host)
	case !time.Now().Before(in.Expires):
		return wire.Errorf(wire.CodeToken, "the token for %s ended at %s (here it is %s): %s%s", host, stamp(in.Expires), stamp(time.Now()), another, host)
	}
	raw, err := json.Marshal(map[string]any{"version": invitationVersion, "time": time.Now().UTC(), "addr": addr})
	if err != nil {
		return err
	}
	err = durable.Create(a.tokenFile(name, "used"), append(raw, '\n'), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return wire.Errorf(wire.CodeToken, "the token for %s was used already: if that was not this host, somebody else has its certificate (understudy pki revoke --name %s); %s%s",
			host, host, another, host)
	}
	if err != nil {
		return err
	}
	return durable.SyncFolder(filepath.Join(a.dir, tokensFolder))
}
