package sat

// heap keeps the variables that may be open, the most active one first; of two
// alike the older one, so that the order does not depend on history alone.
type heap struct {
	vars     []int
	at       []int // index of each variable in vars; -1 when it is not there
	activity []float64
	step     float64
}

func (h *heap) grow(v int) {
	if h.step == 0 {
		h.step = 1
	}
	h.at = append(h.at, -1)
	h.activity = append(h.activity, 0)
	h.push(v)
}

func (h *heap) before(i, j int) bool {
	a, b := h.vars[i], h.vars[j]
	return h.activity[a] > h.activity[b] || h.activity[a] == h.activity[b] && a < b
}

func (h *heap) swap(i, j int) {
	h.vars[i], h.vars[j] = h.vars[j], h.vars[i]
	h.at[h.vars[i]], h.at[h.vars[j]] = i, j
}

func (h *heap) push(v int) {
	if h.at[v] >= 0 {
		return
	}
	h.at[v] = len(h.vars)
	h.vars = append(h.vars, v)
	h.up(h.at[v])
}

// pop takes the first variable out; -1 when there is none.
func (h *heap) pop() int {
	if len(h.vars) == 0 {
		return -1
	}
	v, last := h.vars[0], len(h.vars)-1
	h.swap(0, last)
	h.vars = h.vars[:last]
	h.at[v] = -1
	h.down(0)
	return v
}

func (h *heap) up(i int) {
	for i > 0 && h.before(i, (i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (h *heap) down(i int) {
	for {
		best := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.vars); child++ {
			if h.before(child, best) {
				best = child
			}
		}
		if best == i {
			return
		}
		h.swap(i, best)
		i = best
	}
}

// bump makes a variable that took part in a conflict more active.
func (h *heap) bump(v int) {
	if h.activity[v] += h.step; h.activity[v] > 1e100 {
		for i := range h.activity {
			h.activity[i] *= 1e-100
		}
		h.step *= 1e-100
	}
	if h.at[v] >= 0 {
		h.up(h.at[v])
	}
}

// decay makes older conflicts count less.
func (h *heap) decay() { h.step /= 0.95 }
