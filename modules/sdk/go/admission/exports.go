//go:build wasip1

package admission

import "pintle.dev/module/abi"

//go:wasmexport pintle:module/admission@1.0.0#start
func start(name, nameLength, config, configLength uint32) uint32 {
	hello := Hello{ModuleName: abi.Text(name, nameLength), Config: abi.Text(config, configLength)}
	return abi.Done(rule.Start(hello))
}

//go:wasmexport pintle:module/admission@1.0.0#review
func review(request uint32) uint32 {
	return abi.Outcome(rule.Review(abi.Lift[Request](request)))
}

//go:wasmexport cabi_post_pintle:module/admission@1.0.0#start
func started(uint32) { abi.Release() }

//go:wasmexport cabi_post_pintle:module/admission@1.0.0#review
func reviewed(uint32) { abi.Release() }
