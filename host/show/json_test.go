package show

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/sync/stats"
)

// TestJSONDocuments pins every member of the documents that scripts read: a name
// that changes breaks them.
func TestJSONDocuments(t *testing.T) {
	snake := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	for file, document := range map[string]any{"statistics.json": &stats.Statistics{}, "status.json": &stats.Status{}} {
		fill(reflect.ValueOf(document).Elem(), map[reflect.Type]bool{})
		var b bytes.Buffer
		if err := JSON(&b, document); err != nil {
			t.Fatal(err)
		}
		golden(t, file, b.String())
		var back any
		if err := json.Unmarshal(b.Bytes(), &back); err != nil {
			t.Fatal(err)
		}
		keys(back, func(k string) {
			if !snake.MatchString(k) {
				t.Errorf("%s: the member %q", file, k)
			}
		})
	}
}

// fill gives every member a value, so that none is left out; a type within
// itself once.
func fill(v reflect.Value, within map[reflect.Type]bool) {
	switch v.Kind() {
	case reflect.Struct:
		if within[v.Type()] {
			return
		}
		within[v.Type()] = true
		defer delete(within, v.Type())
		for i := range v.NumField() {
			fill(v.Field(i), within)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), within)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), within)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, within)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("reason"), e)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	default:
		v.SetUint(1)
	}
}

func keys(document any, fn func(string)) {
	switch d := document.(type) {
	case map[string]any:
		for k, v := range d {
			fn(k)
			keys(v, fn)
		}
	case []any:
		for _, v := range d {
			keys(v, fn)
		}
	}
}
