// Package volumetest tests block Devices: a conformance suite for any of them, a Device that forgets what was not synced, and
// one that fails on demand.
package volumetest
