//go:build wasip1

package abi

import (
	"reflect"
	"unsafe"
)

// instance is the memory of this instance. What crosses is kept from the collector, which does not move anything, until the call is done.
type instance struct{}

var kept [][]uint64

func (instance) at(address, size uint32) []byte {
	if size == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(address))), size)
}

func (instance) alloc(size uint32) uint32 {
	if size == 0 {
		return 8
	}
	words := make([]uint64, (size+7)/8)
	kept = append(kept, words)
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(words))))
}

// realloc is where the kernel's side asks for room for what it passes.
//
//go:wasmexport cabi_realloc
func realloc(old, oldSize, align, size uint32) uint32 {
	at := instance{}.alloc(size)
	if oldSize > 0 {
		copy(instance{}.at(at, size), instance{}.at(old, oldSize))
	}
	return at
}

// Lift reads the value at an address.
func Lift[T any](address uint32) (value T) {
	lift(instance{}, address, reflect.ValueOf(&value).Elem())
	return value
}

// Text is a copy of the text at an address.
func Text(address, length uint32) string {
	return text(instance{}, address, length)
}

// Outcome writes an answer; its address.
func Outcome[T any](value T, err error) uint32 {
	return result(instance{}, reflect.ValueOf(&value).Elem(), err)
}

// Value writes an answer that cannot be an error; its address.
func Value[T any](value T) uint32 {
	from := reflect.ValueOf(&value).Elem()
	size, _ := layout(from.Type())
	at := instance{}.alloc(size)
	lower(instance{}, at, from)
	return at
}

// Done writes an answer that is no more than an error, or none; its address.
func Done(err error) uint32 {
	return result(instance{}, reflect.Value{}, err)
}

// Release lets go of what crossed in a call.
func Release() {
	kept = nil
}
