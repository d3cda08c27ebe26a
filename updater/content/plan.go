package content

import (
	"cmp"
	"slices"
)

// How far a block of a plan is.
const (
	blockWaits   uint8 = 0 // nothing of it is here
	blockOpen    uint8 = 1 // some slices may be here
	blockHandled uint8 = 2 // delivered
)

// plan is what is wanted of a file, cut into slices of one frame each, and how
// far every block is. Blocks are opened as they are asked for, or as a cast
// brings them, and delivered when the last slice is there. Owned by one goroutine.
type plan struct {
	sink  Sink
	frame int     // length of a full slice, bytes
	want  []Block // by offset
	state []uint8 // of each
	open  map[int]*building
	next  int      // no block before it waits
	ready []*slice // to be asked for, in order
	left  int64    // bytes of blocks that are not delivered
	spare []byte   // of a block that was given up, to be used again
}

// slice is the unit of request: one frame's worth of one block.
type slice struct {
	block  *building
	offset uint64 // in the file
	length int
	here   bool
}

// building is a block of which some slices are there.
type building struct {
	at     int // in plan.want
	block  Block
	data   []byte
	left   int // bytes
	slices []*slice
}

func newPlan(want []Block, sink Sink) *plan {
	p := &plan{sink: sink, want: slices.Clone(want), state: make([]uint8, len(want)), open: map[int]*building{}}
	slices.SortFunc(p.want, func(a, b Block) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, k := range p.want {
		p.left += int64(k.Length)
	}
	return p
}

func (p *plan) finished() bool { return p.left == 0 && p.unopened() < 0 && len(p.open) == 0 }

// unopened is the first block that waits, or -1.
func (p *plan) unopened() int {
	for p.next < len(p.want) {
		if p.state[p.next] == blockWaits {
			return p.next
		}
		p.next++
	}
	return -1
}

// cut sets the length of a frame. Blocks begun are begun anew.
func (p *plan) cut(frame int) {
	p.frame = frame
	for _, b := range p.open {
		p.slice(b)
	}
	p.requeue(nil)
}

func (p *plan) slice(b *building) {
	b.left, b.slices = b.block.Length, b.slices[:0:0]
	for at := 0; at < b.block.Length; at += p.frame {
		b.slices = append(b.slices, &slice{block: b, offset: uint64(b.block.Offset) + uint64(at), length: min(p.frame, b.block.Length-at)})
	}
}

// requeue makes everything of the open blocks ready that is not here, nor taken.
func (p *plan) requeue(taken func(*slice) bool) {
	p.ready = p.ready[:0]
	for _, at := range p.opened() {
		for _, s := range p.open[at].slices {
			if !s.here && (taken == nil || !taken(s)) {
				p.ready = append(p.ready, s)
			}
		}
	}
}

func (p *plan) opened() []int {
	out := make([]int, 0, len(p.open))
	for at := range p.open {
		out = append(out, at)
	}
	slices.Sort(out)
	return out
}

func (p *plan) begin(at int) *building {
	k := p.want[at]
	b := &building{at: at, block: k}
	if cap(p.spare) >= k.Length {
		b.data, p.spare = p.spare[:k.Length], nil
	} else {
		b.data = p.sink.Buffer(k.Length)
	}
	p.slice(b)
	p.open[at], p.state[at] = b, blockOpen
	return b
}

// take is the next slice to ask for, or nil; it opens the next block when there is none ready.
func (p *plan) take() *slice {
	for {
		if len(p.ready) == 0 {
			at := p.unopened()
			if at < 0 {
				return nil
			}
			p.ready = append(p.ready, p.begin(at).slices...)
		}
		s := p.ready[0]
		p.ready = p.ready[1:]
		if !s.here && p.current(s) {
			return s
		}
	}
}

// current says that a slice belongs to a block that is open, and not to one given up or cut anew.
func (p *plan) current(s *slice) bool {
	b := p.open[s.block.at]
	return b != nil && b == s.block && b.slices[(s.offset-uint64(b.block.Offset))/uint64(p.frame)] == s
}

// find is the slice at an offset of the file, if it is wanted, not here and has this
// length. Its block is opened if it waits: at most limit are open at once, and
// the first of the others is given up for it.
func (p *plan) find(offset uint64, length, limit int) *slice {
	at, exact := slices.BinarySearchFunc(p.want, offset, func(k Block, o uint64) int { return cmp.Compare(uint64(k.Offset), o) })
	if !exact {
		at--
	}
	if at < 0 || p.state[at] == blockHandled {
		return nil
	}
	k := p.want[at]
	within := offset - uint64(k.Offset)
	if within >= uint64(k.Length) || within%uint64(p.frame) != 0 || length != min(p.frame, k.Length-int(within)) {
		return nil
	}
	b := p.open[at]
	if b == nil {
		if len(p.open) >= limit {
			p.giveUp(p.opened()[0])
		}
		b = p.begin(at)
	}
	if s := b.slices[within/uint64(p.frame)]; !s.here {
		return s
	}
	return nil
}

// giveUp forgets what there is of a block; it will be opened again.
func (p *plan) giveUp(at int) {
	p.spare = p.open[at].data
	delete(p.open, at)
	p.state[at] = blockWaits
	p.next = min(p.next, at)
}

// land takes a slice's bytes, and delivers its block with the last of them.
func (p *plan) land(s *slice, payload []byte) error {
	b := s.block
	copy(b.data[s.offset-uint64(b.block.Offset):], payload)
	s.here = true
	if b.left -= s.length; b.left > 0 {
		return nil
	}
	delete(p.open, b.at)
	p.state[b.at] = blockHandled
	p.left -= int64(b.block.Length)
	return p.sink.Deliver(b.block, b.data)
}

// missing is how many bytes are not delivered, and where they begin and end.
func (p *plan) missing() (bytes, first, last uint64) {
	for at, k := range p.want {
		if p.state[at] == blockHandled {
			continue
		}
		if bytes == 0 {
			first = uint64(k.Offset)
		}
		bytes += uint64(k.Length)
		last = uint64(k.Offset) + uint64(k.Length)
	}
	return bytes, first, last
}
