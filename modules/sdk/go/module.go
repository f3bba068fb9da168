// Package module is what modules of every kind are told: types that the packages admission and controller share.
package module

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
