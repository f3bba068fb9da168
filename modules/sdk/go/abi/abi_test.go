package abi

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
)

// slab is a memory of its own, with nothing at 0.
type slab struct{ bytes []byte }

func (s *slab) at(address, size uint32) []byte { return s.bytes[address : address+size] }

func (s *slab) alloc(size uint32) uint32 {
	at := up(uint32(len(s.bytes)), 8)
	s.bytes = append(s.bytes, make([]byte, at+size-uint32(len(s.bytes)))...)
	return at
}

type pair struct{ Name, Value string }

type all struct {
	Flag  bool
	Code  uint16
	Count uint32
	Until uint64
	Text  string
	Maybe *uint64
	None  *string
	Pairs []pair
}

func TestWhatIsLoweredIsLiftedAgain(t *testing.T) {
	m := &slab{make([]byte, 8)}
	seven := uint64(7)
	was := all{true, 418, 1 << 20, 1 << 40, "häuser", &seven, nil, []pair{{"a", "b"}, {"", "c"}}}
	size, _ := layout(reflect.TypeOf(was))
	at := m.alloc(size)
	lower(m, at, reflect.ValueOf(was))
	var now all
	lift(m, at, reflect.ValueOf(&now).Elem())
	if !reflect.DeepEqual(was, now) {
		t.Errorf("%+v became %+v", was, now)
	}
}

func TestTheLayoutIsThatOfTheCanonicalABI(t *testing.T) {
	type action interface{}
	type patch struct {
		Kind uint8
		Body string
	}
	Variant[action]("", patch{}, struct{}{})
	for _, one := range []struct {
		value       reflect.Type
		size, align uint32
	}{
		{reflect.TypeFor[all](), 64, 8},
		{reflect.TypeFor[*string](), 12, 4},
		{reflect.TypeFor[*uint64](), 16, 8},
		{reflect.TypeFor[action](), 16, 4},
		{reflect.TypeFor[struct{}](), 0, 1},
	} {
		if size, align := layout(one.value); size != one.size || align != one.align {
			t.Errorf("%s takes %d bytes at multiples of %d", one.value, size, align)
		}
	}
}

func TestAnErrorTakesTheValuesPlace(t *testing.T) {
	m := &slab{make([]byte, 8)}
	at := result(m, reflect.ValueOf(all{}), errors.New("no"))
	if m.at(at, 1)[0] != 1 || text(m, word(m, at+8), word(m, at+12)) != "no" {
		t.Errorf("% x", m.at(at, 24))
	}
	at = result(m, reflect.Value{}, nil)
	if binary.LittleEndian.Uint32(m.at(at, 4)) != 0 {
		t.Errorf("% x", m.at(at, 12))
	}
}
