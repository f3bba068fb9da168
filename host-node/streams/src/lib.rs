//! Byte streams between a client and a process on a machine, as Kubernetes' clients speak them: SPDY/3.1, WebSockets with channels, port-forward.
//!
//! `process` is the vocabulary in the middle: bounded pipes whose ends know nothing of each other's transport. `websocket`, `spdy_process` (on
//! `spdy` and `spdy_frame`) and `forward` carry them to clients. Every pipe is bounded, so a slow client slows the process, and nothing piles up
//! here. Nothing of objects, nodes or containers is known here.

pub mod forward;
pub mod process;
pub mod spdy;
pub mod spdy_frame;
pub mod spdy_process;
pub mod websocket;
