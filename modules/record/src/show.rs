//! Answers as JSON, by what they mean: objects and patches are parsed, so that two that say the same look the same.
//!
//! The JSON is for comparing and for people; its shape may change with any version.

use crate::{Outcome, RecordError};
use capnp::{message::ReaderOptions, serialize, traits::HasTypeId};
use pintle_wit::{
    admission_capnp::{self as admission_wire, admission},
    common_capnp::{failure, object_ref},
    controller_capnp::{controller, result},
    objects_capnp as objects,
    scheduler_capnp::{decision, scheduler, scheduler_plugin},
};
use serde_json::{Map, Value, json};

/// What a call came to.
pub fn show(interface: u64, method: u16, outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Fault(why) => json!({ "fault": why }),
        Outcome::Error(why) => json!({ "error": why }),
        Outcome::Answer(bytes) => answer(interface, method, bytes).unwrap_or_else(|error| json!({ "unreadable": error.to_string() })),
    }
}

fn answer(interface: u64, method: u16, mut bytes: &[u8]) -> Result<Value, RecordError> {
    let whole = bytes;
    let message = serialize::read_message(&mut bytes, options())?;
    Ok(match (interface, method) {
        (admission::Client::TYPE_ID, 0) => verdict(message.get_root::<admission::review_results::Reader<'_>>()?.get_verdict()?)?,
        (controller::Client::TYPE_ID, 0) => {
            let results = message.get_root::<controller::reconcile_results::Reader<'_>>()?.get_results()?;
            results.iter().map(plan).collect::<Result<Vec<_>, _>>()?.into()
        }
        (scheduler::Client::TYPE_ID, 1) => {
            let results = message.get_root::<scheduler::schedule_results::Reader<'_>>()?;
            let decisions = results.get_decisions()?.iter().map(decided).collect::<Result<Vec<_>, _>>()?;
            json!({ "stale": results.get_stale(), "decisions": decisions })
        }
        (scheduler::Client::TYPE_ID, 0) => json!({ "stale": message.get_root::<scheduler::sync_results::Reader<'_>>()?.get_stale() }),
        (scheduler_plugin::Client::TYPE_ID, 0) => {
            json!({ "stale": message.get_root::<scheduler_plugin::sync_results::Reader<'_>>()?.get_stale() })
        }
        (scheduler_plugin::Client::TYPE_ID, 3) => {
            let results = message.get_root::<scheduler_plugin::evaluate_results::Reader<'_>>()?;
            let reasons = results.get_reasons()?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            json!({ "stale": results.get_stale(), "scores": results.get_scores()?.iter().collect::<Vec<i16>>(), "reasons": reasons })
        }
        // Nobody here knows what it means: it is what it is.
        _ => json!({ "message": whole.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    })
}

/// How much of a message is looked at.
pub(crate) fn options() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(16 << 20)).nesting_limit(32);
    options
}

impl From<capnp::Error> for RecordError {
    fn from(error: capnp::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<std::str::Utf8Error> for RecordError {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

type Text<'a> = capnp::Result<capnp::text::Reader<'a>>;

fn text(text: Text<'_>) -> Result<String, RecordError> {
    Ok(text?.to_str()?.to_owned())
}

/// An enumerant's name.
fn word(value: Result<impl std::fmt::Debug, capnp::NotInSchema>) -> Result<String, RecordError> {
    Ok(format!("{:?}", value.map_err(capnp::Error::from)?).to_lowercase())
}

/// A body: JSON, or what there is instead.
fn body(data: capnp::Result<&[u8]>) -> Result<Value, RecordError> {
    let data = data?;
    Ok(serde_json::from_slice(data).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(data).into_owned())))
}

/// A JSON object of what is not empty.
fn brief(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) | Value::Object(_) => false,
    };
    Value::Object(
        fields.into_iter().filter(|(_, value)| !empty(value)).map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>(),
    )
}

fn refused(failure: failure::Reader<'_>) -> Result<Value, RecordError> {
    Ok(brief([
        ("code", failure.get_code().into()),
        ("reason", text(failure.get_reason())?.into()),
        ("message", text(failure.get_message())?.into()),
    ]))
}

fn verdict(verdict: admission_wire::verdict::Reader<'_>) -> Result<Value, RecordError> {
    let edit = |edit: admission_wire::edit::Reader<'_>| -> Result<Value, RecordError> {
        let op = word(edit.get_op())?;
        Ok(json!({ "op": op, "path": text(edit.get_path())?, "value": body(edit.get_value())? }))
    };
    let warnings = verdict.get_warnings()?.iter().map(|w| text(w).map(Value::from)).collect::<Result<Vec<_>, _>>()?;
    let notes = verdict.get_audit_annotations()?.iter();
    let notes = notes.map(|n| Ok(json!([text(n.get_name())?, text(n.get_value())?]))).collect::<Result<Vec<_>, RecordError>>()?;
    let mut shown = brief([
        ("edits", verdict.get_edits()?.iter().map(edit).collect::<Result<Vec<_>, _>>()?.into()),
        ("warnings", warnings.into()),
        ("auditAnnotations", notes.into()),
    ]);
    shown["allowed"] = verdict.get_allowed().into();
    if !verdict.get_allowed() {
        shown["refused"] = refused(verdict.get_failure()?)?;
    }
    Ok(shown)
}

/// What a controller wants done. What it read for that is no part of it: whoever is asked again is given it.
fn plan(result: result::Reader<'_>) -> Result<Value, RecordError> {
    let event = |event: pintle_wit::controller_capnp::event::Reader<'_>| -> Result<Value, RecordError> {
        Ok(json!({ "warning": event.get_warning(), "reason": text(event.get_reason())?, "message": text(event.get_message())? }))
    };
    Ok(brief([
        ("writes", result.get_writes()?.iter().map(write).collect::<Result<Vec<_>, _>>()?.into()),
        ("requeueAfterMillis", result.get_requeue_after_millis().into()),
        ("failure", text(result.get_failure())?.into()),
        ("events", result.get_events()?.iter().map(event).collect::<Result<Vec<_>, _>>()?.into()),
    ]))
}

fn target(target: object_ref::Reader<'_>) -> Result<Value, RecordError> {
    Ok(brief([
        ("group", text(target.get_group())?.into()),
        ("resource", text(target.get_resource())?.into()),
        ("namespace", text(target.get_namespace())?.into()),
        ("name", text(target.get_name())?.into()),
        ("uid", text(target.get_uid())?.into()),
    ]))
}

fn write(write: objects::write::Reader<'_>) -> Result<Value, RecordError> {
    let (verb, what) = match write.which().map_err(capnp::Error::from)? {
        objects::write::Unspecified(()) => ("nothing", Value::Null),
        objects::write::Create(object) => ("create", body(object)?),
        objects::write::Update(object) => ("update", body(object)?),
        objects::write::Patch(patch) => {
            let patch = patch?;
            ("patch", json!({ "kind": word(patch.get_kind())?, "body": body(patch.get_body())? }))
        }
        objects::write::Delete(options) => {
            let options = options?;
            let propagation = word(options.get_propagation())?;
            let seconds = options.get_grace_period_seconds();
            (
                "delete",
                json!({ "gracePeriodSeconds": seconds, "propagation": propagation, "resourceVersion": text(options.get_resource_version())? }),
            )
        }
    };
    let mut shown = brief([("target", target(write.get_target()?)?), ("subresource", text(write.get_subresource())?.into())]);
    shown[verb] = what;
    Ok(shown)
}

fn decided(decision: decision::Reader<'_>) -> Result<Value, RecordError> {
    Ok(match decision.which().map_err(capnp::Error::from)? {
        decision::Unspecified(()) => Value::Null,
        decision::Node(node) => json!({ "node": text(node)? }),
        decision::Unschedulable(why) => json!({ "unschedulable": text(why)? }),
        decision::Wait(why) => json!({ "wait": text(why)? }),
        decision::Prepare(writes) => json!({ "prepare": writes?.iter().map(write).collect::<Result<Vec<_>, _>>()? }),
        decision::Evict(evict) => {
            let evict = evict?;
            let victims = evict.get_victims()?.iter().map(target).collect::<Result<Vec<_>, _>>()?;
            json!({ "evict": { "node": text(evict.get_node())?, "victims": victims } })
        }
    })
}
