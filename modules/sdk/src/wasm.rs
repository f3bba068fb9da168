//! The pipe in WebAssembly: the WIT world's bindings around one [`Guest`](crate::guest::Guest). Nothing else here.
#![allow(unsafe_code, missing_docs, reason = "the bindings are generated; an export is `unsafe` by its nature")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the blocks are the generator's: they move lists over the component boundary")]

use std::cell::RefCell;

use crate::guest::{Factory, Guest as Vat};

wit_bindgen::generate!({
    path: "../../wit/world.wit",
    world: "module",
    pub_export_macro: true,
    export_macro_name: "export_pipe",
    default_bindings_module: "pintle_sdk::wasm",
});

thread_local!(static VAT: RefCell<Option<Vat>> = const { RefCell::new(None) });

/// The world's `pump`. The first call makes the vat.
pub fn pump(factory: Factory, frames: Vec<u8>) -> Pumped {
    let frames = with_vat(factory, |vat| vat.pump(frames));
    Pumped { frames, more: false }
}

/// The world's `call`.
pub fn call(factory: Factory, iface: u64, method: u16, params: Vec<u8>) -> Result<Vec<u8>, String> {
    with_vat(factory, |vat| vat.call(iface, method, &params))
}

fn with_vat<T>(factory: Factory, use_it: impl FnOnce(&mut Vat) -> T) -> T {
    VAT.with_borrow_mut(|vat| {
        let vat = vat.get_or_insert_with(|| {
            std::panic::set_hook(Box::new(|info| abort(&info.to_string())));
            Vat::new(factory)
        });
        use_it(vat)
    })
}
