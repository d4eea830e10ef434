package term

import (
	"encoding/json"
	"io"
	"reflect"
)

// JSON writes v as one document, for --json: indented by two spaces, with a line feed at its end. Texts are written as
// they are: HTML's characters are not escaped. A nil slice is an empty list, never null.
func JSON(w io.Writer, v any) error {
	enc := encoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(list(v))
}

// JSONLine writes v as JSON does, on a line of its own: one of a stream, as a Printer writes its events.
func JSONLine(w io.Writer, v any) error { return encoder(w).Encode(list(v)) }

func encoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

// list is v, or an empty slice for one that is nil.
func list(v any) any {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice && r.IsNil() {
		return reflect.MakeSlice(r.Type(), 0, 0).Interface()
	}
	return v
}
