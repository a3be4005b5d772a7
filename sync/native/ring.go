package native

// ring is a queue in an array that grows by doubling. Elements are named by
// their number since the ring was made.
type ring[T any] struct {
	buf  []T // power of two
	head uint64
	tail uint64
}

func (r *ring[T]) len() int { return int(r.tail - r.head) }

func (r *ring[T]) at(i uint64) *T { return &r.buf[i&uint64(len(r.buf)-1)] }

func (r *ring[T]) push(v T) {
	if r.len() == len(r.buf) {
		bigger := make([]T, max(64, 2*len(r.buf)))
		for i := r.head; i != r.tail; i++ {
			bigger[i&uint64(len(bigger)-1)] = *r.at(i)
		}
		r.buf = bigger
	}
	*r.at(r.tail) = v
	r.tail++
}

// drop forgets the elements before i.
func (r *ring[T]) drop(i uint64) { r.head = i }
