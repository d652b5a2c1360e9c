// Package workload writes to a file system as real programs do, and afterwards proves what a copy of it must hold.
//
// Two writers run side by side. The churn creates, replaces, renames and deletes files and overwrites records in place; it
// syncs them, and whatever it has synced it calls acknowledged. The database is one long-lived sqlite3 with a write-ahead
// log and full sync: each row is a transaction, acknowledged once sqlite3 has answered after it.
//
// The writers run in a process of their own, which can be killed like any program. It tells what it is about to do, and
// what was acknowledged when, as events on a pipe: so the Ledger lives outside of the disk that dies.
//
// All content follows from a number: what a file or row must hold is computed again when it is checked, not remembered.
package workload
