// Package journaltest has a filesystem for tests of the journal: in memory, forgetting at a crash what was not synced, full
// or failing on demand; and a builder of deltas.
package journaltest
