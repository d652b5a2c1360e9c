package pki

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/internal/wire"
)

// Token is what a host enrolls with, once. Its text:
//
//	"understudy1-" base64url( id 8 | secret 24 | digest of the CA 32 | receiver's HOST:PORT … | check 4 )
//
// The check is the start of a SHA-256 over what is before it: a token that lost a letter is told from one that is refused.
type Token struct {
	ID     [wire.TokenSize]byte
	Secret [wire.SecretSize]byte
	// CA is the SHA-256 of the CA's certificate in DER: by it the host knows the receiver, which it has never seen.
	CA [sha256.Size]byte
	// Receiver is where to enroll, if whoever made the token knew; else empty.
	Receiver string
}

const (
	tokenPrefix = "understudy1-" // magic and version
	tokenCheck  = 4
	tokenFixed  = wire.TokenSize + wire.SecretSize + sha256.Size + tokenCheck
)

// Name is how logs call the token: its id, which is no secret.
func (t Token) Name() string { return hex.EncodeToString(t.ID[:]) }

// Text is the token as an operator hands it on. It is secret.
func (t Token) Text() string {
	b := bytes.Join([][]byte{t.ID[:], t.Secret[:], t.CA[:], []byte(t.Receiver)}, nil)
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:tokenCheck]...))
}

// ParseToken reads what Text gives.
func ParseToken(s string) (Token, error) {
	var t Token
	damaged := errors.New("this is no token, or a part of one: copy all of what understudy enroll-token printed")
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok || len(text) > base64.RawURLEncoding.EncodedLen(tokenFixed+wire.MaxAddress) {
		return t, damaged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < tokenFixed {
		return t, damaged
	}
	body, check := b[:len(b)-tokenCheck], b[len(b)-tokenCheck:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:tokenCheck], check) {
		return t, damaged
	}
	n := copy(t.ID[:], body)
	n += copy(t.Secret[:], body[n:])
	n += copy(t.CA[:], body[n:])
	t.Receiver = string(body[n:])
	return t, nil
}

// String keeps the secret out of logs.
func (t Token) String() string { return fmt.Sprintf("token %s", t.Name()) }
