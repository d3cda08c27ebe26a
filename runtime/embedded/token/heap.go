package token

// pair is a merge that may be done: the symbol at left with the one after it.
// cost orders merges; among equals the leftmost goes first.
type pair struct {
	cost  float64
	left  int
	right int
	size  int // bytes of both symbols when it was queued; another size means that one has merged since
}

func (p pair) before(q pair) bool {
	return p.cost < q.cost || (p.cost == q.cost && p.left < q.left)
}

// pairs is a binary heap with the cheapest pair on top. container/heap would box
// every pair, and a long word queues one for each byte.
type pairs []pair

func (h *pairs) push(p pair) {
	*h = append(*h, p)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s[i].before(s[up]) {
			return
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *pairs) pop() pair {
	s := *h
	top, last := s[0], len(s)-1
	s[0] = s[last]
	s = s[:last]
	*h = s
	for i := 0; ; {
		least := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < len(s) && s[c].before(s[least]) {
				least = c
			}
		}
		if least == i {
			return top
		}
		s[i], s[least] = s[least], s[i]
		i = least
	}
}

// symbol is a stretch of the word being merged, linked to its neighbours; an
// empty one has been merged into the symbol on its left.
type symbol struct {
	start, end int // byte offsets into the word
	prev, next int // -1 at the borders
}

// merge joins neighbouring symbols of word in the order of cost until no pair
// is left, and returns what remains, left to right. cost answers false for two
// symbols that do not merge; joined is both together.
func merge(word string, syms []symbol, cost func(left, right, joined string) (float64, bool)) []symbol {
	var queue pairs
	offer := func(l, r int) {
		if l < 0 || r < 0 {
			return
		}
		a, b := syms[l], syms[r]
		if c, ok := cost(word[a.start:a.end], word[b.start:b.end], word[a.start:b.end]); ok {
			queue.push(pair{c, l, r, b.end - a.start})
		}
	}
	for i := 1; i < len(syms); i++ {
		offer(i-1, i)
	}
	for len(queue) > 0 {
		p := queue.pop()
		l, r := &syms[p.left], &syms[p.right]
		if l.end == l.start || r.end == r.start || r.end-l.start != p.size {
			continue
		}
		l.end, l.next = r.end, r.next
		r.start = r.end
		if l.next >= 0 {
			syms[l.next].prev = p.left
		}
		offer(l.prev, p.left)
		offer(p.left, l.next)
	}
	out := syms[:0]
	for i := 0; i >= 0 && len(syms) > 0; {
		s := syms[i]
		out = append(out, s)
		i = s.next
	}
	return out
}

// link makes one symbol of each stretch that ends at the next offset of ends.
func link(ends []int) []symbol {
	syms := make([]symbol, len(ends))
	start := 0
	for i, end := range ends {
		syms[i] = symbol{start, end, i - 1, i + 1}
		start = end
	}
	if len(syms) > 0 {
		syms[len(syms)-1].next = -1
	}
	return syms
}
