// Package link is the authenticated link between two ends: mutual TLS 1.3, sessions with streams, on two carriers behind
// one small interface. The session code is the same on both.
//
//	Session, Stream          what agent, receiver and operator use
//	hello.go, verify.go      who the peer is; the same code for both ends
//	conn (carrier.go)        what a carrier gives
//	quic.go   tcp.go         QUIC | TLS over TCP with yamux
//
// # Who the peer is
//
// A host is known by the name in its certificate (the first DNS SAN), and its roles stand there too (URI SANs
// "understudy:role:source"). Both ends hold that the peer's certificate is of the one CA, is valid now, and has the role
// that the peer takes. Names of the network are not looked at: a target moves, and a source is behind NAT.
//
// TLS itself only makes sure that the peer has the key of the certificate it shows. The verification is done right after
// the handshake, before anything that the peer says is looked at, in one place for both ends and carriers (admit in
// hello.go): so a refusal is a sentence ("certificate of web1 expired on …") that both sides can show, where a TLS alert
// is a number that says neither when nor whose.
//
// # Goroutines
//
// A Session and a Listener own goroutines from when they are made until Close has returned.
package link
