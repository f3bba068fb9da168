// Package admission is for modules that judge requests before they are stored: the interface `admission` of wit/module.wit, in Go.
//
//	func init() { admission.Serve(&rule{}) }
//	func main() {}
package admission

import (
	"encoding/json"

	"pintle.dev/module"
)

// Rule judges requests. Any instance may get any request, one at a time.
type Rule interface {
	// Start is called once, first. An error keeps the module from starting and is shown in its status.
	Start(Hello) error
	// Review judges one request. An error is no verdict: the manifest's failurePolicy decides.
	Review(Request) (Verdict, error)
}

// Hello is what the module is told when it starts.
type Hello = module.Hello

// ObjectRef names an object.
type ObjectRef = module.ObjectRef

// Operation is what is asked for.
type Operation uint8

// The operations.
const (
	Create Operation = iota
	Update
	Delete
	Connect
)

// Phase is when it is asked.
type Phase uint8

// The phases.
const (
	// Mutating allows edits.
	Mutating Phase = iota
	// Validating is when all edits have been made; only the verdict counts.
	Validating
)

// Related are objects that the manifest relates to the one that is looked at.
type Related = module.Related

// Request is what somebody wants.
type Request struct {
	Operation Operation
	Phase     Phase
	Target    ObjectRef
	// Version is the API version that the request was sent in.
	Version, Kind string
	// Subresource is empty when the object itself is meant.
	Subresource string
	UserName    string
	UserGroups  []string
	// DryRun: nothing will be stored.
	DryRun bool
	// Object is as it would be, JSON; nil on delete.
	Object *string
	// OldObject is as it is, JSON; nil on create.
	OldObject *string
	Related   []Related
}

// Refusal is why a request does not pass.
type Refusal struct {
	// Code is the HTTP status; 0 means 403.
	Code uint16
	// Reason is a metav1.StatusReason; empty goes by the code.
	Reason  string
	Message string
}

// EditOp is what an edit does.
type EditOp uint8

// The operations of edits.
const (
	Add EditOp = iota
	Replace
	Remove
)

// Edit is one operation of RFC 6902.
type Edit struct {
	Op EditOp
	// Path is a JSON pointer.
	Path string
	// Value is JSON; unused by Remove.
	Value string
}

// Annotation is a line of the audit log.
type Annotation struct{ Name, Value string }

// Verdict is the answer. The zero value lets the request pass as it is.
type Verdict struct {
	// Refusal is nil when the request passes.
	Refusal *Refusal
	// Edits count in the mutating phase only.
	Edits []Edit
	// Warnings are shown to the user by kubectl.
	Warnings         []string
	AuditAnnotations []Annotation
}

// Refuse is the verdict that refuses with these words.
func Refuse(message string) Verdict {
	return Verdict{Refusal: &Refusal{Message: message}}
}

// Set is the edit that puts a value at a path, whether there is one or not.
func Set(path string, value any) (Edit, error) {
	text, err := json.Marshal(value)
	return Edit{Op: Add, Path: path, Value: string(text)}, err
}

var rule Rule

// Serve names the rule that answers; call it from init.
func Serve(r Rule) { rule = r }
