//! What an object is.
//!
//! One schema table, one row a field ([`table`]), drives decoding, unknown-field checks, defaulting, strategic merge,
//! discovery, OpenAPI and tables for people. Built-in kinds are rows made at compile time; custom resources are rows
//! added at runtime; nothing above the table tells them apart.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no async, no global state beyond the table.
//! Objects are `serde_json::Value`. Failures are [`ApiError`], which knows the `Status` that a client sees.

pub mod decode;
pub mod path;
pub mod quantity;
pub mod resource;
pub mod status;
pub mod table;

pub use path::Path;
pub use resource::{Resource, Scope, Subresource, Verb, Verbs, resources};
pub use status::{ApiError, FieldError, FieldErrorKind, Reason};
pub use table::{Container, Element, Field, Relation, Schema, TypeId, TypeView};
