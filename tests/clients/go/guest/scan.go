// A plugin of a scheduler for kube-scheduler-wasm-extension, by its interface and without its SDK: a pod with a label `rack` goes to nodes of that rack, best
// to one whose number is the pod's.
package main

import "google.golang.org/protobuf/encoding/protowire"

// bytesOf are the values of a message's field of bytes.
func bytesOf(message []byte, field protowire.Number) (found [][]byte) {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return found
		}
		message = message[length:]
		if number == field && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			found = append(found, value)
		}
		if length = protowire.ConsumeFieldValue(number, kind, message); length < 0 {
			return found
		}
		message = message[length:]
	}
	return found
}

// Fields of ObjectMeta, and of a Pod and a Node, which have it first.
const (
	metadata = 1
	name     = 1
	labels   = 11
)

// label is the value of an object's label, and whether it has it.
func label(object []byte, key string) (string, bool) {
	for _, meta := range bytesOf(object, metadata) {
		for _, entry := range bytesOf(meta, labels) {
			if keys := bytesOf(entry, 1); len(keys) == 1 && string(keys[0]) == key {
				for _, value := range bytesOf(entry, 2) {
					return string(value), true
				}
				return "", true
			}
		}
	}
	return "", false
}

// nameOf is the object's.
func nameOf(object []byte) string {
	for _, meta := range bytesOf(object, metadata) {
		for _, value := range bytesOf(meta, name) {
			return string(value)
		}
	}
	return ""
}

// sameNumber is whether two names end with the same digit.
func sameNumber(one, other string) bool {
	return one != "" && other != "" && one[len(one)-1] == other[len(other)-1]
}

func main() {}
