package term

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"testing"
)

func TestJSONWriter(t *testing.T) {
	type row struct {
		Name string   `json:"name"`
		Tags []string `json:"tags,omitempty"`
	}
	for _, tt := range []struct {
		v          any
		want, line string
	}{
		{row{"a<b>&\u2028", nil}, "{\n  \"name\": \"a<b>&\\u2028\"\n}\n", "{\"name\":\"a<b>&\\u2028\"}\n"},
		{[]row(nil), "[]\n", "[]\n"},
		{[]row{{"x", []string{"t"}}}, "[\n  {\n    \"name\": \"x\",\n    \"tags\": [\n      \"t\"\n    ]\n  }\n]\n", "[{\"name\":\"x\",\"tags\":[\"t\"]}]\n"},
		{nil, "null\n", "null\n"},
	} {
		var doc, line bytes.Buffer
		if err := errors.Join(JSON(&doc, tt.v), JSONLine(&line, tt.v)); err != nil || doc.String() != tt.want || line.String() != tt.line {
			t.Errorf("%#v: %v, %q, %q; want %q, %q", tt.v, err, doc.String(), line.String(), tt.want, tt.line)
		}
	}
	if err := JSON(io.Discard, math.NaN()); err == nil {
		t.Error("NaN is written")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	if err := JSON(w, 1); err == nil {
		t.Error("the error of the writer is lost")
	}
}
