package receiver

import "time"

// What one peer may take of this receiver; what its link may, internal/link/limits.go says.
const (
	// firstMessage is how long a stream may take to say what it is for.
	firstMessage = 30 * time.Second
	// replyTime is how long an answer may take to leave.
	replyTime = 2 * time.Minute
	// maxDisks is how many disks a host may have copies of: each costs a folder, files and a goroutine, and making one up
	// costs a source nothing.
	maxDisks = 256
)
