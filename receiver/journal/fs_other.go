//go:build !linux

package journal

// Sync makes data and size durable.
func (o osFile) Sync() error { return o.f.Sync() }
