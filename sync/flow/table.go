package flow

// Table names a cache, or both.
type Table uint8

// The tables an operation can be about.
const (
	Both Table = iota
	Internal
	External
)
