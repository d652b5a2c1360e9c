//go:build race

package linetest

// raceFlags make the commands under test as watchful as the tests.
var raceFlags = []string{"-race"}
