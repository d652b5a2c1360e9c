//go:build !linux

package journal

// Sync makes data and size durable.
func (o osFile) Sync() error { return o.f.Sync() }

// openFilesLimit is how many files the process may have open: what can be counted on.
func openFilesLimit() uint64 { return 1024 }
