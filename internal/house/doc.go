// Package house holds the rules of this repository as tests: who may import whom and why not, a doc comment for every
// package, how long a file and a function may be, and what is not done here at all. It has no code of its own.
package house
