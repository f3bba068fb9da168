//! Who asks, and what they may do.
//!
//! `authn` turns a connection and its headers into a `Caller`; `token` makes and reads service account tokens; `authz` decides, with `rbac` for
//! everybody, `node` for machines, and `escalation` for who would grant rights; `bootstrap` puts the roles that every cluster has into the registry.

pub(crate) mod authn;
pub(crate) mod authz;
pub(crate) mod bootstrap;
pub(crate) mod escalation;
pub(crate) mod node;
pub(crate) mod rbac;
pub(crate) mod token;
