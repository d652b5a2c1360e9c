package receiver

import (
	"github.com/understudy-dr/understudy/internal/link"
	"github.com/understudy-dr/understudy/internal/wire"
)

// Who may ask for what: the one table of it. A request is the message that begins a stream, with its kind where it has one.
// What is not in the table nobody may.
//
//	                             source   target   viewer   operator   admin
//	open, scan request           own      -        -        -          -
//	renew                        own      -        -        -          -
//	query: status, points        own      -        all      all        all
//	read (restore)               -        -        -        all        all
//	command: pin, unpin,
//	  promote, audit, accept     -        -        -        all        all
//	invite (a token), revoke     -        -        -        -          all
//
// own: of the disks, and the certificate, of the host that the source's certificate names. A source may not restore its own
// disks: the past of a server is more than the server has, and a server that was broken into should not give it away.

// scope is of whose disks.
type scope uint8

const (
	scopeNone scope = iota
	scopeOwn        // of the peer's own host
	scopeAll
)

// request is what a peer asks for.
type request struct {
	message wire.Type
	kind    uint8 // of a Query or Command, else 0
}

func (r request) String() string {
	switch r.message {
	case wire.TypeQuery:
		return wire.QueryKind(r.kind).String()
	case wire.TypeCommand:
		return wire.CommandKind(r.kind).String()
	}
	return r.message.String()
}

// grants is the table.
var grants = map[request]map[wire.Role]scope{
	{wire.TypeOpen, 0}:        hostsOwn,
	{wire.TypeScanRequest, 0}: hostsOwn,
	{wire.TypeRenew, 0}:       hostsOwn,

	{wire.TypeQuery, uint8(wire.QueryStatus)}: look,
	{wire.TypeQuery, uint8(wire.QueryPoints)}: look,

	{wire.TypeRead, 0}:                             operate,
	{wire.TypeCommand, uint8(wire.CommandPin)}:     operate,
	{wire.TypeCommand, uint8(wire.CommandUnpin)}:   operate,
	{wire.TypeCommand, uint8(wire.CommandPromote)}: operate,
	{wire.TypeCommand, uint8(wire.CommandAudit)}:   operate,
	{wire.TypeCommand, uint8(wire.CommandAccept)}:  operate,

	{wire.TypeInvite, 0}: administer,
	{wire.TypeRevoke, 0}: administer,
}

// The columns that occur.
var (
	hostsOwn   = map[wire.Role]scope{wire.RoleSource: scopeOwn}
	look       = map[wire.Role]scope{wire.RoleSource: scopeOwn, wire.RoleViewer: scopeAll, wire.RoleOperator: scopeAll, wire.RoleAdmin: scopeAll}
	operate    = map[wire.Role]scope{wire.RoleOperator: scopeAll, wire.RoleAdmin: scopeAll}
	administer = map[wire.Role]scope{wire.RoleAdmin: scopeAll}
)

// requestOf is what a message asks for.
func requestOf(m wire.Message) request {
	switch m := m.(type) {
	case *wire.Query:
		return request{wire.TypeQuery, uint8(m.Kind)}
	case *wire.Command:
		return request{wire.TypeCommand, uint8(m.Kind)}
	}
	return request{m.Type(), 0}
}

// authorise holds a peer's request against the table. A refusal is a *wire.Error.
func authorise(peer link.Peer, req request) (reach, error) {
	row, known := grants[req]
	if !known {
		return reach{}, wire.Errorf(wire.CodeProtocol, "a stream can't begin with %v", req)
	}
	switch row[peer.Role] {
	case scopeAll:
		return reach{all: true}, nil
	case scopeOwn:
		return reach{host: peer.Host}, nil
	}
	return reach{}, wire.Errorf(wire.CodeForbidden, "%s has the role %v and may not ask for %v", peer.Host, peer.Role, req)
}

// reach is which disks a request may be about.
type reach struct {
	all  bool
	host string // if not all: those of this host
}

// covers tells whether a disk of host is among them.
func (r reach) covers(host string) bool { return r.all || r.host == host }
