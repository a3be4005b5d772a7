package flow

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func ftpExpect() Expect {
	x := Expect{
		Master: MakeTuple(ProtoTCP, addr("10.77.0.1"), addr("10.77.0.2"), 60260, 21),
		Tuple:  MakeTuple(ProtoTCP, addr("10.77.0.1"), addr("10.77.0.2"), 0, 51210),
		Mask:   MakeTuple(ProtoTCP, addr("255.255.255.255"), addr("255.255.255.255"), 0, 0xffff),
		Has:    ExpectHasTimeout | ExpectHasFlags | ExpectHasClass | ExpectHasHelper, Timeout: 297,
		Helper: MakeHelper("ftp"),
	}
	return x
}

func TestExpectJSONShape(t *testing.T) {
	natted := ftpExpect()
	natted.NAT = MakeTuple(ProtoTCP, addr("10.1.0.10"), addr("0.0.0.0"), 51210, 0)
	natted.NATDir, natted.Zone, natted.Since = 1, 3, 1700000000
	natted.Has |= ExpectHasNATAddr | ExpectHasNATPort | ExpectHasNATProto | ExpectHasNATDir | ExpectHasFunction
	copy(natted.Function[:], "nat-follow-master")
	gre := Expect{Tuple: MakeTuple(ProtoGRE, addr("fd77::2"), addr("fd77::1"), 0, 0x42), Master: MakeTuple(ProtoTCP, addr("fd77::1"), addr("fd77::2"), 40000, 1723)}
	const ftp = `"proto":"tcp","protonum":6,"expect":{"src":"10.77.0.1","dst":"10.77.0.2","sport":0,"dport":51210},` +
		`"mask":{"protonum":6,"src":"255.255.255.255","dst":"255.255.255.255","sport":0,"dport":65535},` +
		`"master":{"proto":"tcp","protonum":6,"src":"10.77.0.1","dst":"10.77.0.2","sport":60260,"dport":21},` +
		`"timeout":297,"helper":"ftp","class":0,"flags":0`
	for _, c := range []struct {
		x    Expect
		want string
	}{
		{ftpExpect(), `{` + ftp + `}`},
		{natted, `{` + ftp + `,"nat":{"src":"10.1.0.10","src_port":51210,"protonum":6,"dir":1},` +
			`"function":"nat-follow-master","zone":3,"active_since":"2023-11-14T22:13:20Z"}`},
		{gre, `{"proto":"gre","protonum":47,"expect":{"src":"fd77::2","dst":"fd77::1","sport":0,"dport":66},` +
			`"master":{"proto":"tcp","protonum":6,"src":"fd77::1","dst":"fd77::2","sport":40000,"dport":1723}}`},
	} {
		if b, err := json.Marshal(c.x); err != nil || string(b) != c.want {
			t.Errorf("%v: got\n%s\nwant\n%s", err, b, c.want)
		}
	}
}

// TestExpectJSONRoundTrip: an attribute that is there with the value zero, or
// with an empty name, is still there.
func TestExpectJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawExpect(t)
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		var y Expect
		if err := json.Unmarshal(b, &y); err != nil || y != x {
			t.Fatalf("%s\nbecame\n%+v\nwant\n%+v (%v)", b, y, x, err)
		}
	})
}

func drawExpect(t *rapid.T) Expect {
	x := Expect{Tuple: drawTuple(t, "tuple"), Master: drawTuple(t, "master"), Zone: rapid.Uint16().Draw(t, "zone"),
		Has: HasExpect(rapid.Uint16Range(0, uint16(ExpectHasFunction)<<1-1).Draw(t, "has")), Since: rapid.Int64Range(0, 1<<33).Draw(t, "since")}
	if rapid.Bool().Draw(t, "masked") {
		x.Mask = drawTuple(t, "mask")
	}
	set := func(bit HasExpect, fn func()) {
		if x.Has&bit != 0 {
			fn()
		}
	}
	set(ExpectHasTimeout, func() { x.Timeout = rapid.Uint32().Draw(t, "timeout") })
	set(ExpectHasFlags, func() { x.Flags = rapid.Uint32().Draw(t, "flags") })
	set(ExpectHasClass, func() { x.Class = rapid.Uint32().Draw(t, "class") })
	set(ExpectHasHelper, func() { x.Helper = MakeHelper(drawName(t, 15)) })
	set(ExpectHasFunction, func() { copy(x.Function[:], drawName(t, 27)) })
	nat := drawTuple(t, "nat")
	set(ExpectHasNATAddr, func() { x.NAT.Src, x.NAT.Dst, x.NAT.Family = nat.Src, nat.Dst, nat.Family })
	set(ExpectHasNATPort, func() { x.NAT.Sport, x.NAT.Dport = nat.Sport, nat.Dport })
	set(ExpectHasNATProto, func() { x.NAT.Proto = nat.Proto })
	set(ExpectHasNATDir, func() { x.NATDir = rapid.Uint32Range(0, 1).Draw(t, "dir") })
	return x
}

func drawName(t *rapid.T, most int) string {
	return rapid.StringOfN(rapid.RuneFrom([]rune("abcQ.931-")), 0, most, most).Draw(t, "name")
}

func drawTuple(t *rapid.T, label string) Tuple {
	proto := rapid.SampledFrom([]uint8{0, ProtoTCP, ProtoUDP, ProtoGRE, ProtoICMP, 99, 255}).Draw(t, label)
	pair := rapid.SampledFrom([][2]string{{"10.0.0.1", "198.51.100.1"}, {"0.0.0.0", "255.255.255.255"}, {"fd00::1", "::"},
		{"::ffff:10.0.0.1", "2001:db8::1"}, {"ffff:ffff:ffff:ffff::", "::"}}).Draw(t, label)
	port := func() uint16 { return rapid.SampledFrom([]uint16{0, 21, 0xffff}).Draw(t, label) }
	src, dst := addr(pair[0]), addr(pair[1])
	u := Tuple{Family: familyOf(src), Proto: proto, Sport: port(), Dport: port()}
	u.SetSrc(src)
	u.SetDst(dst)
	return u
}

func TestExpectJSONThatIsNone(t *testing.T) {
	for _, text := range []string{`[]`, `{"protonum":256}`, `{"expect":{"src":"10.0.0"}}`, `{"mask":{"dport":65536}}`, `{"timeout":"soon"}`} {
		x := ftpExpect()
		if err := json.Unmarshal([]byte(text), &x); err == nil {
			t.Errorf("%s is an expectation: %+v", text, x)
		}
	}
	var x Expect
	long := `{"helper":"` + strings.Repeat("h", 99) + `","function":"` + strings.Repeat("f", 99) + `"}`
	if err := json.Unmarshal([]byte(long), &x); err != nil || len(x.Helper.String()) != 15 || len(x.FunctionName()) != 31 {
		t.Errorf("names too long for the kernel are cut: %v, %+v", err, x)
	}
}
