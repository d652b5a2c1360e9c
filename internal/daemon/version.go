package daemon

import "runtime/debug"

// version is put in by the linker (-X), from git, when packages are built.
var version string

// Version is that of the command: of the package it came in, or of the module it was built from, or "devel".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
