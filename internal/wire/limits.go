package wire

import (
	"time"

	"github.com/understudy-dr/understudy/internal/block"
)

// Every limit of the protocol. A length that a peer states is held against these before memory is set aside for it.
const (
	// HeadSize is the size of a message without its body, in bytes.
	HeadSize = 8

	// MaxHost is the longest host name: that of a DNS name (RFC 1035, 2.3.4).
	MaxHost = 255
	// MaxAddress holds HOST:PORT, with the brackets of an IPv6 address.
	MaxAddress = MaxHost + 8
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

	// TokenSize and SecretSize are of a token to enroll with: which one it is, and what can't be guessed.
	TokenSize, SecretSize = 8, 24
	// MaxTokenTTL is how long a token may be good: whoever finds it can be the host for so long.
	MaxTokenTTL = 30 * 24 * time.Hour
	// MaxDER bounds a certificate or a request for one: ours have 300 to 700 bytes, with a long name 1200.
	MaxDER = 2048
	// MaxCAs is how many CAs are trusted at once: one, and while it is replaced two.
	MaxCAs = 8
	// MaxSerial holds a serial number of 20 bytes (RFC 5280, 4.1.2.2) in hexadecimal.
	MaxSerial = 40

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
	maxEnrollBody         = TokenSize + SecretSize + 2 + MaxHost + 2 + MaxProgram + 2 + MaxDER
	maxRenewBody          = 2 + MaxDER
	maxGrantedBody        = 2 + MaxDER + 1 + MaxCAs*(2+MaxDER)
	maxInviteBody         = 2 + MaxHost + 8 + 2 + MaxAddress
	maxRevokeBody         = 2 + MaxHost + 2 + MaxSerial
	laterRoom             = 1024 // for what later versions add to a greeting
	maxStringLen          = 1<<16 - 1
	_                uint = maxStringLen - max(MaxSelector, MaxErrorText, MaxDiskName) // the length of a string is a u16
)

// MaxGreeting bounds the whole of a Hello, Welcome, Enroll or Error, head included: all that is read from a peer before it is
// known.
const MaxGreeting = HeadSize + max(maxHelloBody, maxWelcomeBody, maxEnrollBody, maxErrorBody)

// MaxGranted bounds the whole of a Granted, which a host reads from a listener that it knows by its token.
const MaxGranted = HeadSize + max(maxGrantedBody, maxErrorBody)
