// Package ebpf tracks any live disk that serves requests, from outside: programs at the kernel's block tracepoints set bits
// in a map that is pinned, so that tracking goes on when the agent does not.
package ebpf
