package term

import "unicode/utf8"

// gap is the space between two columns of a Table.
const gap = 2

// least is the smallest width to which a column is cut; a narrower one is left out.
const least = 8

// Fit makes the rows of a table narrow enough for width columns: it leaves out columns from the
// right, and cuts the last one that is kept. The first column always stays. A width of 0, which
// stands for a pipe, is unlimited.
func Fit(rows [][]string, width int) [][]string {
	if width <= 0 {
		return rows
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	used, columns, last := 0, 0, 0 // last is the width of the last column
	for i, w := range widths {
		if i > 0 && widths[i-1] > 0 {
			used += gap
		}
		room := min(w, width-used)
		if room < w && room < least && i > 0 {
			break
		}
		columns, used, last = i+1, used+w, room
		if last < w {
			break
		}
	}
	out := make([][]string, len(rows))
	for i, row := range rows {
		out[i] = append([]string(nil), row[:min(columns, len(row))]...)
		if len(row) >= columns && last < widths[columns-1] {
			out[i][columns-1] = Cut(row[columns-1], last)
		}
	}
	return out
}

// Cut shortens text to n characters, of which the last is then an ellipsis.
func Cut(text string, n int) string {
	r := []rune(text)
	if len(r) <= n || n < 1 {
		return text
	}
	return string(r[:n-1]) + "…"
}
