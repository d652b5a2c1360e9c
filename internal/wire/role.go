package wire

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what an end of a link is there for. It is a role, not a place: either end may dial.
type Role uint8

// The roles. The first two are of hosts, the others of people; a certificate is for one of the two kinds.
const (
	RoleSource   Role = 1 // has the newer disk
	RoleTarget   Role = 2 // holds its journal
	RoleOperator Role = 3 // looks, restores, and decides about copies
	RoleViewer   Role = 4 // looks
	RoleAdmin    Role = 5 // does what an operator does, and decides who may
)

// Roles are all of them.
func Roles() []Role { return []Role{RoleSource, RoleTarget, RoleViewer, RoleOperator, RoleAdmin} }

// People are the roles of people: what they may, each includes the one before.
func People() []Role { return []Role{RoleViewer, RoleOperator, RoleAdmin} }

// Person tells a role of people from one of hosts.
func (r Role) Person() bool { return slices.Contains(People(), r) }

func (r Role) String() string {
	switch r {
	case RoleSource:
		return "source"
	case RoleTarget:
		return "target"
	case RoleOperator:
		return "operator"
	case RoleViewer:
		return "viewer"
	case RoleAdmin:
		return "admin"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// ParseRole reads what String prints.
func ParseRole(s string) (Role, error) {
	for _, r := range Roles() {
		if r.String() == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%q is no role: source, target, viewer, operator or admin", s)
}

// Set reads a role from a flag.
func (r *Role) Set(s string) error {
	parsed, err := ParseRole(strings.ToLower(s))
	if err == nil {
		*r = parsed
	}
	return err
}

// Type names the value in help texts.
func (r *Role) Type() string { return "source|target|viewer|operator|admin" }

// MarshalText makes the role a word in JSON.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (r *Role) UnmarshalText(text []byte) error { return r.Set(string(text)) }
