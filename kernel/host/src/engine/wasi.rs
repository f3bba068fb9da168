//! What a standard library drags in, linked to nothing: no files, no network, a clock that stands still, numbers that only look
//! random, and output that goes to the module's log. Everything else of WASI is there to link and traps when called.
//!
//! The invariant: a module's only inputs are the messages of the pipe. And nothing here waits, because epoch deadlines do not
//! reach into host code.

use super::instance::Guest;
use crate::{
    fault::HostError,
    limits::{LOG_LINE_BYTES_MAX, RANDOM_BYTES_MAX},
};
use wasmtime::{
    StoreContextMut,
    component::{Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType},
};

/// The import that is the pipe's own.
const ABORT: &str = "abort";
/// How much a guest may write to a stream at once, in bytes.
const STREAM_BUDGET: u64 = 64 << 10;

type Handle = Resource<()>;
type Ctx<'a> = StoreContextMut<'a, Guest>;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "the shape of wasi:io/streams' stream-error; nothing here fails")]
    LastOperationFailed(Handle),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// A linker that satisfies exactly what `component` imports.
///
/// # Errors
/// `UnapprovedImport` for anything that is neither the pipe's nor WASI's; `NotAModule` when an import has a shape of its own.
pub fn linker(engine: &wasmtime::Engine, component: &Component) -> Result<Linker<Guest>, HostError> {
    let mut linker = Linker::new(engine);
    let names: Vec<String> = component.component_type().imports(engine).map(|(name, _)| name.to_owned()).collect();
    for name in &names {
        let result = match name.split('@').next().unwrap_or(name) {
            ABORT => abort(&mut linker.root()),
            interface if interface.starts_with("wasi:") => linker.instance(name).and_then(|mut i| define(&mut i, interface)),
            _ => return Err(HostError::UnapprovedImport(name.clone())),
        };
        result.map_err(|e| HostError::NotAModule(format!("{e:#}")))?;
    }
    linker.define_unknown_imports_as_traps(component).map_err(|e| HostError::NotAModule(format!("{e:#}")))?;
    Ok(linker)
}

fn abort(root: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    root.func_wrap(ABORT, |mut ctx: Ctx<'_>, (message,): (String,)| {
        let end = message.floor_char_boundary(LOG_LINE_BYTES_MAX.min(message.len()));
        let guest = ctx.data_mut();
        guest.log.line(tracing::Level::ERROR, &message[..end]);
        guest.last_words = Some(message[..end].to_owned());
        Ok(())
    })
}

fn define(i: &mut LinkerInstance<'_, Guest>, interface: &str) -> wasmtime::Result<()> {
    match interface {
        "wasi:io/error" => error(i),
        "wasi:io/poll" => poll(i),
        "wasi:io/streams" => streams(i),
        "wasi:cli/environment" => environment(i),
        "wasi:cli/exit" => exit(i),
        "wasi:cli/stdin" => i.func_wrap("get-stdin", |_: Ctx<'_>, (): ()| Ok((Handle::new_own(0),))),
        "wasi:cli/stdout" => i.func_wrap("get-stdout", |_: Ctx<'_>, (): ()| Ok((Handle::new_own(1),))),
        "wasi:cli/stderr" => i.func_wrap("get-stderr", |_: Ctx<'_>, (): ()| Ok((Handle::new_own(2),))),
        "wasi:cli/terminal-stdin" => i.func_wrap("get-terminal-stdin", |_: Ctx<'_>, (): ()| Ok((None::<Handle>,))),
        "wasi:cli/terminal-stdout" => i.func_wrap("get-terminal-stdout", |_: Ctx<'_>, (): ()| Ok((None::<Handle>,))),
        "wasi:cli/terminal-stderr" => i.func_wrap("get-terminal-stderr", |_: Ctx<'_>, (): ()| Ok((None::<Handle>,))),
        "wasi:clocks/monotonic-clock" => monotonic_clock(i),
        "wasi:clocks/wall-clock" => wall_clock(i),
        "wasi:filesystem/preopens" => i.func_wrap("get-directories", |_: Ctx<'_>, (): ()| Ok((Vec::<(Handle, String)>::new(),))),
        "wasi:random/random" => random(i, "get-random-bytes", "get-random-u64"),
        "wasi:random/insecure" => random(i, "get-insecure-random-bytes", "get-insecure-random-u64"),
        "wasi:random/insecure-seed" => i.func_wrap("insecure-seed", |mut ctx: Ctx<'_>, (): ()| {
            let guest = ctx.data_mut();
            Ok(((guest.next_random(), guest.next_random()),))
        }),
        _ => Ok(()),
    }
}

fn resource(i: &mut LinkerInstance<'_, Guest>, name: &str) -> wasmtime::Result<()> {
    i.resource(name, ResourceType::host::<()>(), |_, _| Ok(()))
}

fn error(i: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    resource(i, "error")?;
    i.func_wrap("[method]error.to-debug-string", |_: Ctx<'_>, (_,): (Handle,)| Ok((String::new(),)))
}

/// Everything is always ready: a guest that waits gets its answer at once, and its deadline if it insists.
fn poll(i: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    resource(i, "pollable")?;
    i.func_wrap("[method]pollable.ready", |_: Ctx<'_>, (_,): (Handle,)| Ok((true,)))?;
    i.func_wrap("[method]pollable.block", |_: Ctx<'_>, (_,): (Handle,)| Ok(()))?;
    i.func_wrap("poll", |_: Ctx<'_>, (list,): (Vec<Handle>,)| Ok(((0u32..).take(list.len()).collect::<Vec<u32>>(),)))
}

fn streams(i: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    resource(i, "input-stream")?;
    resource(i, "output-stream")?;
    for name in ["[method]input-stream.read", "[method]input-stream.blocking-read"] {
        i.func_wrap(name, |_: Ctx<'_>, (_, _): (Handle, u64)| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)))?;
    }
    i.func_wrap("[method]input-stream.subscribe", |_: Ctx<'_>, (_,): (Handle,)| Ok((Handle::new_own(0),)))?;
    i.func_wrap("[method]output-stream.subscribe", |_: Ctx<'_>, (_,): (Handle,)| Ok((Handle::new_own(0),)))?;
    i.func_wrap("[method]output-stream.check-write", |_: Ctx<'_>, (_,): (Handle,)| Ok((Ok::<u64, StreamError>(STREAM_BUDGET),)))?;
    for name in ["[method]output-stream.write", "[method]output-stream.blocking-write-and-flush"] {
        i.func_wrap(name, |mut ctx: Ctx<'_>, (_, bytes): (Handle, Vec<u8>)| {
            ctx.data_mut().log.bytes(&bytes);
            Ok((Ok::<(), StreamError>(()),))
        })?;
    }
    for name in ["[method]output-stream.flush", "[method]output-stream.blocking-flush"] {
        i.func_wrap(name, |_: Ctx<'_>, (_,): (Handle,)| Ok((Ok::<(), StreamError>(()),)))?;
    }
    Ok(())
}

fn environment(i: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    i.func_wrap("get-environment", |_: Ctx<'_>, (): ()| Ok((Vec::<(String, String)>::new(),)))?;
    i.func_wrap("get-arguments", |_: Ctx<'_>, (): ()| Ok((Vec::<String>::new(),)))?;
    i.func_wrap("initial-cwd", |_: Ctx<'_>, (): ()| Ok((None::<String>,)))
}

fn exit(i: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    i.func_wrap("exit", |_: Ctx<'_>, (_,): (Result<(), ()>,)| Err::<(), _>(wasmtime::Error::msg("the guest exited")))
}

fn monotonic_clock(i: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    i.func_wrap("now", |_: Ctx<'_>, (): ()| Ok((0u64,)))?;
    i.func_wrap("resolution", |_: Ctx<'_>, (): ()| Ok((1u64,)))?;
    for name in ["subscribe-instant", "subscribe-duration"] {
        i.func_wrap(name, |_: Ctx<'_>, (_,): (u64,)| Ok((Handle::new_own(0),)))?;
    }
    Ok(())
}

fn wall_clock(i: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    for name in ["now", "resolution"] {
        i.func_wrap(name, |_: Ctx<'_>, (): ()| Ok((Datetime { seconds: 0, nanoseconds: 0 },)))?;
    }
    Ok(())
}

fn random(i: &mut LinkerInstance<'_, Guest>, bytes: &str, number: &str) -> wasmtime::Result<()> {
    i.func_wrap(bytes, |mut ctx: Ctx<'_>, (length,): (u64,)| {
        if length > RANDOM_BYTES_MAX {
            return Err(wasmtime::Error::msg("too many random bytes at once"));
        }
        let guest = ctx.data_mut();
        let bytes: Vec<u8> = (0..length).map(|_| guest.next_random().to_le_bytes()[7]).collect();
        Ok((bytes,))
    })?;
    i.func_wrap(number, |mut ctx: Ctx<'_>, (): ()| Ok((ctx.data_mut().next_random(),)))
}
