// Package rig is what demo, soak and bench have in common: certificates, a receiver and an agent as separate processes of
// the built commands, and the operator's command line, asked as an operator would.
package rig
