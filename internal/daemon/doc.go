// Package daemon holds what every command of this module does the same way, and nothing that knows about disks: signals,
// logs, the service manager's notifications, the control socket, strict configuration, progress and exit codes. It imports
// nothing of this module, so that each daemon and each command may use it.
package daemon
