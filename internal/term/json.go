package term

import (
	"encoding/json"
	"io"
	"reflect"
)

// JSON writes v as one document, for --json: indented by two spaces, with a line feed at its end.
// The characters of HTML are not escaped. A nil slice is written as an empty list, not as null.
func JSON(w io.Writer, v any) error {
	enc := encoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(list(v))
}

// JSONLine writes v on one line, for a stream of documents such as the events of a Printer.
func JSONLine(w io.Writer, v any) error { return encoder(w).Encode(list(v)) }

func encoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

// list is v, or an empty slice if v is a nil slice.
func list(v any) any {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice && r.IsNil() {
		return reflect.MakeSlice(r.Type(), 0, 0).Interface()
	}
	return v
}
