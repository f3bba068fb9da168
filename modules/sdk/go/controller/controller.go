// Package controller is for modules that bring objects to what others ask for: the interface `controller` of wit/module.wit, in Go.
//
//	func init() { controller.Serve(&greeter{}) }
//	func main() {}
package controller

import (
	"encoding/json"
	"fmt"
	"time"

	"pintle.dev/module"
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
type Hello = module.Hello

// ObjectRef names an object.
type ObjectRef = module.ObjectRef

// Related are objects that the manifest relates to the one that is looked at.
type Related = module.Related

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

// Query is what to read beside what the manifest relates, by the module's own permissions: get for one object by its name, else list. What they do not show
// is not there.
type Query struct {
	// Group is empty for the core group; Resource is the lower-case plural.
	Group, Resource string
	// Namespace is empty for the whole cluster.
	Namespace string
	// Name is empty for all of them.
	Name string
	// LabelSelector is in the words of kubectl get --selector. Not beside a name.
	LabelSelector string
}

// Answer is what a request has among Related once the query was read: for tests.
func (q Query) Answer(objects ...string) Related {
	return Related{Name: q.name(), Objects: objects}
}

func (q Query) name() string {
	return fmt.Sprintf("%s/%s %s/%s?%s", q.Group, q.Resource, q.Namespace, q.Name, q.LabelSelector)
}

// wanted is a query with what its answer will be called.
type wanted struct {
	Name string
	Query
}

// unread is what the last request could not be decided without.
var unread []wanted

// Read is the objects of a query, JSON, and whether they have been read. If not, they are: what Reconcile returns then does not count, and it is
// called once more. So read before doing anything, and ask for what depends on nothing together.
func (r Request) Read(query Query) ([]string, bool) {
	for _, related := range r.Related {
		if related.Name == query.name() {
			return related.Objects, true
		}
	}
	unread = append(unread, wanted{query.name(), query})
	return nil, false
}

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
