//go:build wasip1

package controller

import "pintle.dev/module/abi"

//go:wasmexport pintle:module/controller@1.0.0#start
func start(name, nameLength, config, configLength uint32) uint32 {
	hello := Hello{ModuleName: abi.Text(name, nameLength), Config: abi.Text(config, configLength)}
	return abi.Done(controller.Start(hello))
}

//go:wasmexport pintle:module/controller@1.0.0#reconcile
func reconcile(request uint32) uint32 {
	unread = nil
	return abi.Outcome(controller.Reconcile(abi.Lift[Request](request)))
}

//go:wasmexport pintle:module/reads@1.0.0#wanted
func reads() uint32 { return abi.Value(unread) }

//go:wasmexport cabi_post_pintle:module/reads@1.0.0#wanted
func toldReads(uint32) { abi.Release() }

//go:wasmexport cabi_post_pintle:module/controller@1.0.0#start
func started(uint32) { abi.Release() }

//go:wasmexport cabi_post_pintle:module/controller@1.0.0#reconcile
func reconciled(uint32) { abi.Release() }
