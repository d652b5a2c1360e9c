package wire

import "github.com/understudy-dr/understudy/internal/block"

// Every limit of the protocol. A length that a peer states is held against these before memory is set aside for it.
const (
	// HeadSize is the size of a message without its body, in bytes.
	HeadSize = 8

	// MaxHost is the longest host name: that of a DNS name (RFC 1035, 2.3.4).
	MaxHost = 255
	// MaxProgram holds a program's name and version with room for a commit.
	MaxProgram = 128
	// MaxDiskName holds a path below /dev/disk, which nests ids of controllers and targets.
	MaxDiskName = 1024
	// MaxSelector holds HOST:DEVICE, the longest way to name a disk, and any way to name a point.
	MaxSelector = MaxHost + 1 + MaxDiskName
	// MaxErrorText holds a few lines: an error lists what there is when something is not found.
	MaxErrorText = 4096

	// MaxScanDigests bounds a ScanReply to 512 KiB, and what the target reads for it: 1 GiB of disk in chunks of 64 KiB.
	MaxScanDigests = 16384
	// MinScanChunk is the smallest block of a disk.
	MinScanChunk block.Size = 512
	// MaxScanChunk is what the target reads at once into memory to answer.
	MaxScanChunk = 4 * block.MiB

	// MaxDocument bounds a Reply: a hundred thousand recovery points at 300 bytes each.
	MaxDocument = 32 << 20
)

// What a body may measure at most.
const (
	maxHelloBody          = 2 + 2 + 1 + 2 + MaxHost + 2 + MaxProgram + 8 + laterRoom
	maxWelcomeBody        = 2 + 2 + MaxHost + 2 + MaxProgram + 8 + laterRoom
	maxErrorBody          = 2 + 2 + MaxErrorText + laterRoom
	maxOpenBody           = 16 + 2 + MaxDiskName + 2 + MaxHost + 16 + 32 + 8 + 4 + 4 + 8 + 32 + 1
	openedBody            = 8 + 32 + 8 + 8 + 4 + 1
	ackBody               = 8 + 32
	scanRequestBody       = 16 + 8 + 8 + 8 + 8 + 4
	scanReplyFixed        = 8 + 8 + 8 + 4
	maxScanReplyBody      = scanReplyFixed + MaxScanDigests*32
	maxQueryBody          = 1 + 2 + MaxSelector + 2 + MaxSelector
	maxCommandBody        = 1 + 2 + MaxSelector + 2 + MaxSelector
	progressBody          = 8 + 8
	maxReadBody           = 2 + MaxSelector + 2 + MaxSelector + 8 + 8
	maxReadStartBody      = 16 + 8 + block.MaxSealSize
	readEndBody           = 32 + 8
	laterRoom             = 1024 // for what later versions add to a greeting
	maxStringLen          = 1<<16 - 1
	_                uint = maxStringLen - max(MaxSelector, MaxErrorText, MaxDiskName) // the length of a string is a u16
)

// MaxGreeting bounds the whole of a Hello, Welcome or Error, head included: all that is read from a peer before it is known.
const MaxGreeting = HeadSize + max(maxHelloBody, maxWelcomeBody, maxErrorBody)
