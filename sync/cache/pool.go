package cache

// pool hands out values by number; number 0 is none. They never move, so that a
// growing table copies nothing.
type pool[T any] struct {
	chunks [][]T
	used   uint32 // numbers ever handed out
	free   []uint32
}

const poolChunk = 256

func (p *pool[T]) at(i uint32) *T { return &p.chunks[(i-1)/poolChunk][(i-1)%poolChunk] }

// alloc hands out a zero value.
func (p *pool[T]) alloc() uint32 {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		*p.at(i) = *new(T)
		return i
	}
	if int(p.used) == len(p.chunks)*poolChunk {
		p.chunks = append(p.chunks, make([]T, poolChunk))
	}
	p.used++
	return p.used
}

func (p *pool[T]) release(i uint32) {
	if i != 0 {
		p.free = append(p.free, i)
	}
}
