package abi

import (
	"encoding/binary"
	"fmt"
	"reflect"
)

// memory is where values lie: an instance's own memory, or a slice in tests.
type memory interface {
	// at is the bytes from an address on.
	at(address, size uint32) []byte
	// alloc takes zeroed bytes, at an address that is a multiple of 8.
	alloc(size uint32) uint32
}

// lift reads what lies at an address into a value.
func lift(m memory, address uint32, into reflect.Value) {
	t := into.Type()
	switch t.Kind() {
	case reflect.Bool:
		into.SetBool(m.at(address, 1)[0] != 0)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		into.SetUint(number(m, address, t))
	case reflect.String:
		into.SetString(text(m, word(m, address), word(m, address+4)))
	case reflect.Slice:
		first, count := word(m, address), word(m, address+4)
		size, _ := layout(t.Elem())
		into.Set(reflect.MakeSlice(t, int(count), int(count)))
		for i := range count {
			lift(m, first+i*size, into.Index(int(i)))
		}
	case reflect.Pointer:
		if m.at(address, 1)[0] == 0 {
			into.SetZero()
			return
		}
		_, align := layout(t)
		into.Set(reflect.New(t.Elem()))
		lift(m, address+align, into.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			size, align := layout(t.Field(i).Type)
			address = up(address, align)
			lift(m, address, into.Field(i))
			address += size
		}
	default:
		panic(fmt.Sprintf("%s does not come from the kernel", t))
	}
}

// lower writes a value to an address; what it points to is allocated.
func lower(m memory, address uint32, from reflect.Value) {
	t := from.Type()
	switch t.Kind() {
	case reflect.Bool:
		if from.Bool() {
			m.at(address, 1)[0] = 1
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		size, _ := layout(t)
		var bytes [8]byte
		binary.LittleEndian.PutUint64(bytes[:], from.Uint())
		copy(m.at(address, size), bytes[:])
	case reflect.String:
		text := from.String()
		at := m.alloc(uint32(len(text)))
		copy(m.at(at, uint32(len(text))), text)
		setWords(m, address, at, uint32(len(text)))
	case reflect.Slice:
		size, _ := layout(t.Elem())
		count := uint32(from.Len())
		first := m.alloc(size * count)
		for i := range count {
			lower(m, first+i*size, from.Index(int(i)))
		}
		setWords(m, address, first, count)
	case reflect.Pointer:
		if !from.IsNil() {
			lowerCase(m, address, t, 1, from.Elem())
		}
	case reflect.Interface:
		if from.IsNil() {
			panic(fmt.Sprintf("no %s is said", t.Name()))
		}
		for number, one := range variants[t] {
			if one == from.Elem().Type() {
				lowerCase(m, address, t, byte(number), from.Elem())
				return
			}
		}
		panic(fmt.Sprintf("%s is no %s", from.Elem().Type(), t.Name()))
	case reflect.Struct:
		for i := range t.NumField() {
			size, align := layout(t.Field(i).Type)
			address = up(address, align)
			lower(m, address, from.Field(i))
			address += size
		}
	}
}

func lowerCase(m memory, address uint32, t reflect.Type, number byte, payload reflect.Value) {
	_, align := layout(t)
	m.at(address, 1)[0] = number
	lower(m, address+align, payload)
}

// result writes a `result<T, string>`, or one without a T when ok is not valid; its address.
func result(m memory, ok reflect.Value, err error) uint32 {
	types := []reflect.Type{reflect.TypeFor[string]()}
	if ok.IsValid() {
		types = append(types, ok.Type())
	}
	size, align := behindCase(types...)
	at := m.alloc(size)
	switch {
	case err != nil:
		m.at(at, 1)[0] = 1
		lower(m, at+align, reflect.ValueOf(err.Error()))
	case ok.IsValid():
		lower(m, at+align, ok)
	}
	return at
}

// text is a copy of the text at an address.
func text(m memory, address, length uint32) string {
	return string(m.at(address, length))
}

func number(m memory, address uint32, t reflect.Type) uint64 {
	size, _ := layout(t)
	var bytes [8]byte
	copy(bytes[:], m.at(address, size))
	return binary.LittleEndian.Uint64(bytes[:])
}

func word(m memory, address uint32) uint32 {
	return binary.LittleEndian.Uint32(m.at(address, 4))
}

func setWords(m memory, address, first, second uint32) {
	binary.LittleEndian.PutUint32(m.at(address, 4), first)
	binary.LittleEndian.PutUint32(m.at(address+4, 4), second)
}
