// Package testbed makes what a run on real disks needs - loop devices, file systems, processes - and takes all of it away
// again: on the way out, on an error, and after a signal. Everything that is made is put on one stack of undo steps, and
// Close takes them off from the top. It needs root.
package testbed
