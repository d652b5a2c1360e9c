//go:build !race

package linetest

// raceFlags is empty: the tests themselves were built without the race detector.
var raceFlags []string
