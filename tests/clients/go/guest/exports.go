//go:build wasip1

package main

import (
	"encoding/json"
	"fmt"
	"unsafe"
)

//go:wasmimport k8s.io/api node
func hostNode(name unsafe.Pointer, length uint32, buffer unsafe.Pointer, limit uint32) uint32

//go:wasmimport k8s.io/scheduler get_config
func hostConfig(buffer unsafe.Pointer, limit uint32) uint32

//go:wasmimport k8s.io/scheduler currentPod
func hostPod(buffer unsafe.Pointer, limit uint32) uint32

//go:wasmimport k8s.io/scheduler currentNodeName
func hostNodeName(buffer unsafe.Pointer, limit uint32) uint32

//go:wasmimport k8s.io/scheduler nodeScoreList
func hostScores(buffer unsafe.Pointer, limit uint32) uint32

//go:wasmimport k8s.io/scheduler nodeToStatusMap
func hostStatuses(buffer unsafe.Pointer, limit uint32) uint32

//go:wasmimport k8s.io/scheduler result.nominated_node_name
func hostNominated(text unsafe.Pointer, length uint32)

//go:wasmimport k8s.io/scheduler result.status_reason
func hostReason(text unsafe.Pointer, length uint32)

//go:wasmimport k8s.io/scheduler result.normalized_score_list
func hostNormalized(text unsafe.Pointer, length uint32)

//go:wasmimport k8s.io/klog log
func hostLog(severity uint32, text unsafe.Pointer, length uint32)

// read is what the host gives, in a second call when it is longer than was thought.
func read(give func(buffer unsafe.Pointer, limit uint32) uint32) []byte {
	buffer := make([]byte, 64)
	length := give(unsafe.Pointer(&buffer[0]), uint32(len(buffer)))
	if int(length) > len(buffer) {
		buffer = make([]byte, length)
		give(unsafe.Pointer(&buffer[0]), length)
	}
	return buffer[:length]
}

func tell[T any](how func(text unsafe.Pointer, length uint32) T, text string) T {
	return how(unsafe.Pointer(unsafe.StringData(text)), uint32(len(text)))
}

// Codes of the framework's statuses.
const (
	success       = 0
	failed        = 1
	unschedulable = 2
	wait          = 4
)

var config struct{ Reverse bool }

func init() {
	if text := read(hostConfig); len(text) > 0 {
		if err := json.Unmarshal(text, &config); err != nil {
			panic(err)
		}
	}
}

// refuse says why not.
func refuse(reason string) uint32 {
	hostReason(unsafe.Pointer(unsafe.StringData(reason)), uint32(len(reason)))
	return unschedulable
}

func log(words ...any) {
	message := fmt.Sprint(words...)
	hostLog(0, unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}

//go:wasmexport filter
func filter() uint32 {
	rack, asks := label(read(hostPod), "rack")
	if rack == "that-breaks" {
		panic("there is no such rack")
	}
	nodeName := string(read(hostNodeName))
	node := tell(func(text unsafe.Pointer, length uint32) []byte {
		return read(func(buffer unsafe.Pointer, limit uint32) uint32 { return hostNode(text, length, buffer, limit) })
	}, nodeName)
	if has, _ := label(node, "rack"); asks && has != rack {
		return refuse("node(s) of another rack")
	}
	return success
}

//go:wasmexport score
func score() uint64 {
	if sameNumber(nameOf(read(hostPod)), string(read(hostNodeName))) != config.Reverse {
		return 7 << 32
	}
	return 1 << 32
}

//go:wasmexport normalizescore
func normalizescore() uint32 {
	scores := map[string]int{}
	if err := json.Unmarshal(read(hostScores), &scores); err != nil {
		return failed
	}
	best := 1
	for _, score := range scores {
		best = max(best, score)
	}
	for name, score := range scores {
		scores[name] = score * 100 / best
	}
	text, err := json.Marshal(scores)
	if err != nil {
		return failed
	}
	hostNormalized(unsafe.Pointer(&text[0]), uint32(len(text)))
	log("scored for ", nameOf(read(hostPod)))
	return success
}

//go:wasmexport postfilter
func postfilter() uint64 {
	statuses := map[string]int{}
	if err := json.Unmarshal(read(hostStatuses), &statuses); err != nil {
		return failed
	}
	log(len(statuses), " nodes will not do for ", nameOf(read(hostPod)))
	node := "b-2"
	hostNominated(unsafe.Pointer(unsafe.StringData(node)), uint32(len(node)))
	return success
}

// waited are the pods that have waited.
var waited = map[string]bool{}

//go:wasmexport permit
func permit() uint64 {
	pod := read(hostPod)
	name := nameOf(pod)
	switch how, _ := label(pod, "permit"); {
	case how == "no":
		return uint64(refuse("no permit for "+name)) << 32
	case how == "never" || how == "later" && !waited[name]:
		waited[name] = true
		return wait<<32 | 200
	}
	return success
}

//go:wasmexport prebind
func prebind() uint32 {
	log("prepares ", string(read(hostNodeName)), " for ", nameOf(read(hostPod)))
	return success
}

//go:wasmexport bind
func bind() uint32 {
	if how, _ := label(read(hostPod), "bind"); how == "no" {
		return refuse(nameOf(read(hostPod)) + " must not be bound")
	}
	return success
}

//go:wasmexport postbind
func postbind() {
	log(nameOf(read(hostPod)), " is bound to ", string(read(hostNodeName)))
}
