package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/internal/durable"
)

// How a host's key and certificate are replaced, which are two files:
//
//  1. ca.crt.next   the CAs, if they change; synced
//  2. host.crt.next the certificate; synced
//  3. host.key      the key, renamed over the old one: from here on the new ones count
//  4. ca.crt        renamed over the old one
//  5. host.crt      renamed over the old one
//
// A crash before 3 leaves the old key, the old certificate and files that no one looks at. A crash after it leaves a key that
// belongs to host.crt.next and not to host.crt: whoever reads the folder takes the one that belongs (Pair), and the next
// Store finishes 4 and 5 before it begins. Between 3 and 5 nothing in the folder is missing.

const next = ".next"

// Store puts a key and its certificate into a host's folder, which it makes, in place of those that are there. cas are the CAs
// to trust from now on; nil leaves them.
func Store(dir string, key *ecdsa.PrivateKey, cert *x509.Certificate, cas []*x509.Certificate) error {
	if err := store(dir, key, cert, cas); err != nil {
		return fmt.Errorf("store certificate in %s: %w", dir, err)
	}
	return nil
}

func store(dir string, key *ecdsa.PrivateKey, cert *x509.Certificate, cas []*x509.Certificate) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unlock, err := lockFolder(dir)
	if err != nil {
		return err
	}
	defer unlock()
	steps, err := storing(dir, key, cert, cas)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// storing are the steps, and what comes before them; a crash may come after each.
func storing(dir string, key *ecdsa.PrivateKey, cert *x509.Certificate, cas []*x509.Certificate) ([]func() error, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	last := func(file string) func() error { return func() error { return finish(dir, file) } }
	clear := func(file string) func() error { // what a Store left that ended before step 3
		return func() error {
			if err := os.Remove(path(file + next)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return durable.SyncFolder(dir)
		}
	}
	steps := []func() error{last(CACertFile), last(HostCertFile), clear(HostCertFile), clear(CACertFile)}
	if cas != nil {
		steps = append(steps, func() error { return durable.Replace(path(CACertFile+next), bundle(cas), 0o644) })
	}
	return append(steps,
		func() error { return durable.Replace(path(HostCertFile+next), pemOf(pemCertificate, cert.Raw), 0o644) },
		func() error { return durable.Replace(path(HostKeyFile), pemOf(pemKey, der), 0o600) },
		last(CACertFile), last(HostCertFile)), nil
}

// finish renames a file of the pair that counts to its own name, if that is still to be done.
func finish(dir, file string) error {
	_, names, err := Pair(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing counts yet
	}
	if err != nil {
		return err
	}
	if names[file] == file {
		return nil
	}
	if err := os.Rename(filepath.Join(dir, file+next), filepath.Join(dir, file)); err != nil {
		return err
	}
	return durable.SyncFolder(dir)
}

// Pair tells which files of a host's folder belong together now, and gives what they hold; both are keyed by CACertFile,
// HostCertFile and HostKeyFile. The names differ from the keys only where a Store was interrupted. A file that is missing is
// an fs.ErrNotExist.
func Pair(dir string) (content map[string][]byte, names map[string]string, err error) {
	content, names = map[string][]byte{}, map[string]string{}
	read := func(file, name string) error {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			content[file], names[file] = raw, name
		}
		return err
	}
	if err := read(HostKeyFile, HostKeyFile); err != nil {
		return content, names, err
	}
	certMissing := read(HostCertFile, HostCertFile)
	if certMissing == nil && belongs(content[HostCertFile], content[HostKeyFile]) {
		return content, names, read(CACertFile, CACertFile)
	}
	later, err := os.ReadFile(filepath.Join(dir, HostCertFile+next))
	if err != nil || !belongs(later, content[HostKeyFile]) { // then it is the pair that is no good, and the reader says so
		return content, names, errors.Join(certMissing, read(CACertFile, CACertFile))
	}
	content[HostCertFile], names[HostCertFile] = later, HostCertFile+next
	if err := read(CACertFile, CACertFile+next); !errors.Is(err, fs.ErrNotExist) {
		return content, names, err
	}
	return content, names, read(CACertFile, CACertFile)
}

// belongs tells whether a certificate is of a key.
func belongs(certPEM, keyPEM []byte) bool {
	cert, err := parseOne(certPEM)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return false
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return false
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	return ok && key.PublicKey.Equal(cert.PublicKey)
}

// Enrolled tells whether a host's folder holds a key or a certificate.
func Enrolled(dir string) (bool, error) {
	for _, file := range []string{HostKeyFile, HostCertFile} {
		_, err := os.Lstat(filepath.Join(dir, file))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}
