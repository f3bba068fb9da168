//! Byte streams between a client and a process on a machine: the vocabulary in the middle, and the client's three ways to speak it.
//!
//! `process` is the middle: bounded pipes whose ends know nothing of each other's transport. `websocket` and `spdy` carry them to clients;
//! `node` carries them to machines. Every pipe is bounded, so a slow client slows the process, and nothing piles up here.

pub(crate) mod forward;
pub(crate) mod process;
pub(crate) mod spdy;
pub mod spdy_frame;
pub(crate) mod spdy_process;
pub mod websocket;
