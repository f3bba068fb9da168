// Package abi is how values of Go cross to the kernel's side and back: the component model's canonical ABI, for the types that wit/module.wit is made of.
// It is for the packages admission and controller; modules have no use for it.
//
// A Go type says its own layout: bool and uints, string, slices as lists, structs as records and tuples, pointers as options, uint8 types as enums, and
// interfaces as variants whose cases are registered. Facts: https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md
package abi

import (
	"fmt"
	"reflect"
)

// Cases of the interface types that are variants, in the order of the WIT.
var variants = map[reflect.Type][]reflect.Type{}

// Variant says of which types the variant T is made.
func Variant[T any](cases ...T) {
	var types []reflect.Type
	for _, one := range cases {
		types = append(types, reflect.TypeOf(one))
	}
	variants[reflect.TypeFor[T]()] = types
}

// layout is how many bytes a value of type t takes in memory, and what its address is a multiple of.
func layout(t reflect.Type) (size, align uint32) {
	switch t.Kind() {
	case reflect.Bool, reflect.Uint8:
		return 1, 1
	case reflect.Uint16:
		return 2, 2
	case reflect.Uint32:
		return 4, 4
	case reflect.Uint64:
		return 8, 8
	case reflect.String, reflect.Slice:
		return 8, 4
	case reflect.Pointer:
		return behindCase(t.Elem())
	case reflect.Interface:
		return behindCase(variants[t]...)
	case reflect.Struct:
		align = 1
		for i := range t.NumField() {
			fieldSize, fieldAlign := layout(t.Field(i).Type)
			size = up(size, fieldAlign) + fieldSize
			align = max(align, fieldAlign)
		}
		return up(size, align), align
	}
	panic(fmt.Sprintf("%s has no place in an interface of wit/module.wit", t))
}

// behindCase is the layout of a case's number with the largest of these types behind it.
func behindCase(types ...reflect.Type) (size, align uint32) {
	align = 1
	for _, t := range types {
		caseSize, caseAlign := layout(t)
		size, align = max(size, caseSize), max(align, caseAlign)
	}
	return up(align+size, align), align
}

func up(at, align uint32) uint32 {
	return (at + align - 1) / align * align
}
