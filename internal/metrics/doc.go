// Package metrics shows numbers to Prometheus, in its text format (version 0.0.4, Exposition formats of its documentation).
//
// A number has one home. What a daemon knows it keeps where it belongs, and shows it to an operator by its status; a Group takes
// a snapshot of that when somebody asks, so that nothing is counted twice and nothing is done between scrapes. What has no home
// there is counted by a Tally or a Histogram.
//
// Labels are bounded: their values are the disks, the applications and the certificates that were configured, or words of the
// code.
package metrics
