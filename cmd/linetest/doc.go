// Package linetest drives the built commands against each other as an operator would: real processes, real loop disks, the
// real link, and kill -9. It holds tests only.
package linetest
