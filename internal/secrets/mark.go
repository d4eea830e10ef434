package secrets

// marks finds many short texts in one pass over a long one, after Wu and Manber, "A fast algorithm
// for multi-pattern searching" (1994): from the two bytes at a position follows how far the next
// place is at which a mark can end its first bytes. It looks at every second byte of most texts.
type marks struct {
	shift [1 << 16]uint8 // 0: a mark may begin window-2 bytes before
	list  [1 << 16]uint8 // where those two bytes are in at
	at    [][]int        // numbers of marks
	texts []string
}

// window is how many bytes of each mark decide. It is the length of the shortest.
const window = 3

func newMarks(texts []string) *marks {
	m := &marks{at: [][]int{nil}, texts: texts}
	for i := range m.shift {
		m.shift[i] = window - 1
	}
	for n, t := range texts {
		for end := 2; end <= window; end++ {
			pair := pairOf(t[end-2], t[end-1])
			m.shift[pair] = min(m.shift[pair], uint8(window-end))
		}
		last := pairOf(t[window-2], t[window-1])
		if m.list[last] == 0 {
			m.list[last] = uint8(len(m.at))
			m.at = append(m.at, nil)
		}
		m.at[m.list[last]] = append(m.at[m.list[last]], n)
	}
	return m
}

func pairOf(a, b byte) uint16 { return uint16(a)<<8 | uint16(b) }

// each calls found with the position and the number of each mark in text, in the order of the
// positions.
func (m *marks) each(text []byte, found func(at, n int)) {
	for end := window - 1; end < len(text); {
		pair := pairOf(text[end-1], text[end])
		if s := m.shift[pair]; s > 0 {
			end += int(s)
			continue
		}
		start := end + 1 - window
		for _, n := range m.at[m.list[pair]] {
			if t := m.texts[n]; text[start] == t[0] && len(text)-start >= len(t) && string(text[start:start+len(t)]) == t {
				found(start, n)
			}
		}
		end++
	}
}

var formatMarks = newMarks(markTexts())

func markTexts() []string {
	var texts []string
	for _, f := range formats {
		texts = append(texts, f.mark)
	}
	return texts
}
