// Package show renders answers as text, in the layouts of VyOS, and as JSON. It
// is pure: values in, bytes out; golden files hold the layouts.
package show

import (
	"bufio"
	"encoding/json"
	"io"
)

// JSON writes one document.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Array writes a JSON array whose members come one at a time, so that a
// million of them need no room. Begin with NewArray, end with Close.
type Array struct {
	w *bufio.Writer
	n int
}

// NewArray begins an array.
func NewArray(w io.Writer) *Array { return &Array{w: bufio.NewWriterSize(w, 64<<10)} }

// Add appends a member.
func (a *Array) Add(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sep := ",\n"
	if a.n == 0 {
		sep = "[\n"
	}
	a.n++
	_, _ = a.w.WriteString(sep)
	_, err = a.w.Write(b)
	return err
}

// Close ends the array.
func (a *Array) Close() error {
	end := "\n]\n"
	if a.n == 0 {
		end = "[]\n"
	}
	_, _ = a.w.WriteString(end)
	return a.w.Flush()
}
