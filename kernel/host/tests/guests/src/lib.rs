//! One component that plays every part the host's tests need. `Hello.config` is `{"mode": "..."}`; `vat.rs` is the pipe,
//! `parts.rs` the honest parts, `sins.rs` the hostile ones. It is not an example of a module: that is what modules/sdk is for.

mod parts;
mod sins;
mod vat;

use std::cell::RefCell;

wit_bindgen::generate!({ path: "../../../../wit/world.wit", world: "module" });

thread_local! {
    static MODE: RefCell<String> = const { RefCell::new(String::new()) };
    static CONFIG: RefCell<serde_json::Value> = const { RefCell::new(serde_json::Value::Null) };
}

fn mode() -> String {
    MODE.with(|m| m.borrow().clone())
}

fn config(key: &str) -> serde_json::Value {
    CONFIG.with(|c| c.borrow().get(key).cloned().unwrap_or_default())
}

fn configure(json: &[u8]) {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    MODE.with(|m| *m.borrow_mut() = value["mode"].as_str().unwrap_or("").to_owned());
    CONFIG.with(|c| *c.borrow_mut() = value);
}

struct Component;

impl Guest for Component {
    fn pump(frames: Vec<u8>) -> Pumped {
        let honest = vat::pump(frames);
        sins::after_pump(&mode(), honest)
    }

    fn call(iface: u64, method: u16, params: Vec<u8>) -> Result<Vec<u8>, String> {
        sins::on_call(&mode());
        parts::hot(iface, method, &params).map_err(|e| e.to_string())
    }
}

export!(Component);
