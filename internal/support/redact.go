package support

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"regexp"
	"strings"
)

// gone stands where a secret was.
const gone = "<redacted>"

// shortest is how many bytes a secret has at least that is looked for as it is: fewer would be found by accident.
const shortest = 8

// Redactor takes secrets out of text: those it was told, in every encoding that they are likely to have, and what looks like one.
type Redactor struct {
	needles [][]byte
}

// NewRedactor knows secrets byte for byte. Of a private key in PEM it knows the lines, the bytes and the number in it.
func NewRedactor(secrets ...[]byte) *Redactor {
	r := &Redactor{}
	for _, s := range secrets {
		r.learn(s)
		for block, rest := pem.Decode(s); block != nil; block, rest = pem.Decode(rest) {
			r.learn(block.Bytes)
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if ec, ok := key.(*ecdsa.PrivateKey); ok {
					if d, err := ec.Bytes(); err == nil {
						r.learn(d)
					}
				}
			}
		}
		for line := range bytes.Lines(s) {
			if line = bytes.TrimSpace(line); len(line) >= 2*shortest && !bytes.HasPrefix(line, []byte("-----")) {
				r.needles = append(r.needles, line)
			}
		}
	}
	return r
}

// learn adds a secret as it is, in hexadecimal, and in base64 wherever in a longer text it begins.
func (r *Redactor) learn(s []byte) {
	if len(s) < shortest {
		return
	}
	r.needles = append(r.needles, s, []byte(hex.EncodeToString(s)), []byte(strings.ToUpper(hex.EncodeToString(s))))
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			text := encoding.EncodeToString(append(make([]byte, shift), s...))
			// The characters at both ends depend on the neighbours too.
			r.needles = append(r.needles, []byte(text[(shift*8+5)/6:len(text)-1]))
		}
	}
}

const secretName = `[\w.-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|authorization)[\w.-]*`

const secretValue = `\\"(?:[^"\\]|\\[^"])*\\"|"(?:[^"\\]|\\.)*"|'[^']*'|(?:(?:bearer|basic|digest)\s+)?(?:\\[^"]|[^\s,;&"'{}\[\])\\])+`

var (
	keyBegins = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`)
	keyEnds   = regexp.MustCompile(`-----END [A-Z ]*PRIVATE KEY-----`)
	// A token of enrolment, whole or in part (internal/link/pki/token.go).
	enrolment = regexp.MustCompile(`understudy1-[A-Za-z0-9_-]+`)
	// NAME=VALUE, "NAME": "VALUE", also within a quoted string.
	assigned = regexp.MustCompile(`(?i)(` + secretName + `\\?["']?\s*[=:]\s*)(` + secretValue + `)`)
	flagged  = regexp.MustCompile(`(?i)(--?` + secretName + `\s+)(` + secretValue + `)`)
	named    = regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9+/_.=-]{8,}`)
	inURL    = regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`)
	// What may be base64 or hexadecimal of 30 bytes and more.
	encoded = regexp.MustCompile(`[A-Za-z0-9+/_-]{40,}={0,2}`)
)

// longestKey is how many lines a private key has at most in a log.
const longestKey = 200

// Text is b without secrets: those that are known, private keys, tokens, what is assigned to a name like password, and long runs of
// base64 and hexadecimal. It is for what others have written: logs, values, errors.
func (r *Redactor) Text(b []byte) []byte {
	b = r.Own(b)
	for _, re := range []*regexp.Regexp{assigned, flagged} {
		b = re.ReplaceAllFunc(b, func(m []byte) []byte {
			part := re.FindSubmatch(m)
			quote := quoteOf(part[1], part[2])
			return bytes.Join([][]byte{part[1], []byte(quote + gone + quote)}, nil)
		})
	}
	b = named.ReplaceAll(b, []byte("${1}"+gone))
	b = inURL.ReplaceAll(b, []byte("${1}"+gone+"@"))
	return encoded.ReplaceAllFunc(b, func(m []byte) []byte {
		if looksEncoded(m) {
			return []byte(gone)
		}
		return m
	})
}

// quoteOf is what stands around a value, or has to: a number in JSON becomes a string.
func quoteOf(name, value []byte) string {
	for _, quote := range []string{`\"`, `"`, `'`} {
		if bytes.HasPrefix(value, []byte(quote)) || bytes.HasSuffix(bytes.TrimSpace(name), []byte(quote+":")) {
			return quote
		}
	}
	return ""
}

// looksEncoded tells base64 and hexadecimal from long names and paths.
func looksEncoded(m []byte) bool {
	if len(bytes.Trim(bytes.ToLower(m), "0123456789abcdef")) == 0 {
		return true
	}
	return bytes.ContainsAny(m, "0123456789") && bytes.ContainsAny(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") && bytes.ContainsAny(m, "abcdefghijklmnopqrstuvwxyz")
}

// Own is b without the secrets that are known, private keys and tokens. It is for what our own code has made of numbers and names.
func (r *Redactor) Own(b []byte) []byte {
	b = withoutKeys(b)
	for _, n := range r.needles {
		b = bytes.ReplaceAll(b, n, []byte(gone))
	}
	return enrolment.ReplaceAll(b, []byte("understudy1-"+gone))
}

// withoutKeys drops private keys in PEM: within a line, and over several, each with whatever a log puts before it.
func withoutKeys(b []byte) []byte {
	if !keyBegins.Match(b) {
		return b
	}
	var out bytes.Buffer
	left := 0 // lines that may still be of a key
	for line := range bytes.Lines(b) {
		for {
			if left > 0 {
				end := keyEnds.FindIndex(line)
				if end == nil {
					left--
					line = nil
					break
				}
				left, line = 0, line[end[1]:]
			}
			begin := keyBegins.FindIndex(line)
			if begin == nil {
				break
			}
			out.Write(line[:begin[0]])
			out.WriteString(gone + "\n")
			left, line = longestKey, line[begin[1]:]
		}
		out.Write(line)
	}
	return out.Bytes()
}
