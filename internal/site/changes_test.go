package site

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func TestChanges(t *testing.T) {
	old, now := Empty(), Empty()
	for _, name := range []string{"a", "b", "gone"} {
		old.Labels[name] = old.NewLabel(name)
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		now.Labels[name] = now.NewLabel(name)
	}
	if got := old.ChangesSince(old).String(); got != "nothing" {
		t.Errorf("the same: %s", got)
	}
	now.Labels["b"].Cmdline, now.Labels["b"].Overlay.Enabled = []string{"quiet"}, false
	now.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	now.State = "/srv"
	if got, want := now.ChangesSince(old).String(), "labels added: c, d; labels removed: gone; label b changed: cmdline, overlay; changed: state, networks"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Every field of a label that the file sets is compared.
func TestChangesKnowEveryField(t *testing.T) {
	fields := reflect.TypeFor[Label]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		if slices.Contains([]string{"Name", "OwnTree"}, name) { // the key itself, and how Tree came to be
			continue
		}
		old, now := Empty(), Empty()
		old.Labels["a"], now.Labels["a"] = &Label{}, &Label{}
		setAny(t, reflect.ValueOf(now.Labels["a"]).Elem().Field(i))
		if c := now.ChangesSince(old); len(c.Changed["a"]) != 1 {
			t.Errorf("field %s: changes %+v", name, c)
		}
	}
}

// setAny gives a field a value that is not zero.
func setAny(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint16:
		v.SetUint(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMapWithSize(v.Type(), 1))
		v.SetMapIndex(reflect.Zero(v.Type().Key()), reflect.Zero(v.Type().Elem()))
	case reflect.Struct:
		setAny(t, v.Field(0))
	default:
		t.Fatalf("a field of kind %s", v.Kind())
	}
}
