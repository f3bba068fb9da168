//! What an object is.
//!
//! One schema table, one row a field ([`table`]), drives decoding, unknown-field checks, defaulting, strategic merge, server-side apply,
//! discovery, OpenAPI and tables for people. Built-in kinds are rows made at compile time; custom resources are rows
//! added at runtime; nothing above the table tells them apart.
//!
//! A create runs [`decode::decode`], [`strategy::prepare_create`], [`defaults::apply`], admission (elsewhere),
//! [`validate::create`] and [`validate::settle`]; an update and a patch ([`patch::apply`], then [`decode::conform_resource`])
//! run the `_update` counterparts.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no async, no global state beyond the table.
//! Objects are `serde_json::Value`. Failures are [`ApiError`], which knows the `Status` that a client sees.

pub mod apply;
pub mod custom;
pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod openapi;
pub mod patch;
pub mod pod;
pub mod printer;
pub mod proto;
pub mod resource;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validate;

pub use pintle_structural::path::{self, Path};
pub use pintle_values::{network, quantity, selector};
pub use resource::{Resource, Scope, Subresource, Verb, Verbs, resources};
pub use status::{ApiError, FieldError, FieldErrorKind, Reason};
pub use table::{Container, Element, Field, Relation, Schema, TypeId, TypeView};
