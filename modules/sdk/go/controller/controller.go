// Package controller is for modules that bring objects to what others ask for: the interface `controller` of wit/module.wit, in Go.
//
//	func init() { controller.Serve(&greeter{}) }
//	func main() {}
package controller

import (
	"encoding/json"
	"time"

	"pintle.dev/module/abi"
)

// Controller decides about one object at a time. It goes by what is there, never by what happened: it may be asked again with the same, and its plan must
// do no harm then.
type Controller interface {
	// Start is called once, first. An error keeps the module from starting and is shown in its status.
	Start(Hello) error
	// Reconcile decides about one object. An error is told, and the object is looked at again after a growing pause.
	Reconcile(Request) (Plan, error)
}

// Hello is what the module is told when it starts.
type Hello struct {
	// ModuleName is that of the Module object.
	ModuleName string
	// Config is spec.config of the Module object, JSON; {} when there is none.
	Config string
}

// ObjectRef names an object.
type ObjectRef struct {
	Group, Resource, Namespace, Name string
	// UID is empty when it is not known. In a write it is a precondition.
	UID string
}

// Related are objects that the manifest relates to the one that is looked at.
type Related struct {
	// Name is the manifest's for them.
	Name string
	// Objects are JSON.
	Objects []string
}

// Request is one object to look at.
type Request struct {
	Target ObjectRef
	// Attempt is how often it failed in a row.
	Attempt uint32
	// NowMillis is the time, in milliseconds since 1970.
	NowMillis uint64
	// Object is JSON; nil when it is gone.
	Object  *string
	Related []Related
}

// Now is the time; that of package time stands still.
func (r Request) Now() time.Time { return time.UnixMilli(int64(r.NowMillis)) }

// Plan is what should be done. The zero value is nothing.
type Plan struct {
	// Writes are carried out in order; the first failure stops the rest, and the object is looked at again.
	Writes []Write
	Events []Event
	// RequeueAfterMillis says when to look again even if nothing changes; nil is never.
	RequeueAfterMillis *uint64
}

// Requeue has the object looked at again after a time even if nothing changes.
func (p *Plan) Requeue(after time.Duration) {
	millis := uint64(max(after, 0)/time.Millisecond) + 1
	p.RequeueAfterMillis = &millis
}

// Write is one write.
type Write struct {
	Target ObjectRef
	// Subresource is empty, or status, scale, finalize, ...
	Subresource string
	Action      Action
}

// Action is what a write does: Create, Update, Patch or Delete.
type Action interface{ action() }

// Create makes an object; JSON.
type Create string

// Update replaces an object; JSON. A resourceVersion in it is a precondition.
type Update string

// Patch changes an object.
type Patch struct {
	Kind PatchKind
	// Body is JSON.
	Body string
}

// Delete removes an object.
type Delete struct{}

func (Create) action() {}
func (Update) action() {}
func (Patch) action()  {}
func (Delete) action() {}

// PatchKind is how a patch is written.
type PatchKind uint8

// The kinds of patches.
const (
	// JSON is RFC 6902.
	JSON PatchKind = iota
	// Merge is RFC 7386. A metadata.resourceVersion in it is a precondition.
	Merge
	// Strategic is Kubernetes' own, with merge keys.
	Strategic
	// Apply is server-side apply.
	Apply
)

// Applied is the patch that applies an object, as server-side apply does.
func Applied(object any) (Patch, error) {
	body, err := json.Marshal(object)
	return Patch{Apply, string(body)}, err
}

// Event is a line of `kubectl describe`, about the object that is looked at.
type Event struct {
	Warning bool
	// Reason is for programs, in CamelCase.
	Reason string
	// Message is for people.
	Message string
}

var controller Controller

// Serve names the controller that answers; call it from init.
func Serve(c Controller) { controller = c }

func init() { abi.Variant[Action](Create(""), Update(""), Patch{}, Delete{}) }
