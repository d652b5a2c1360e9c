// Package hooks tests the hooks for databases that come with the agent (packaging/hooks) against the real servers: points are
// taken while transactions go on, restored, and the server is started on the copy, which must hold every transaction that was
// acknowledged before the point.
package hooks
