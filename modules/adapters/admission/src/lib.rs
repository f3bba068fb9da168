//! Admission rules in other languages: an admission module like any other, that asks the guest joined to it.
//!
//! It decides nothing and holds nothing. What the guest answers is checked for its shape here (edits are JSON) and for its meaning by the
//! kernel.

mod guest;

use pintle_sdk::{
    Edit, Error, Failure, Operation, Phase, Result, Review, Start, Verdict,
    serde_json::{self, Value},
};

struct Adapter;

impl pintle_sdk::Admission for Adapter {
    fn start(start: &Start) -> Result<Self> {
        let hello = guest::Hello { module_name: start.module_name.clone(), config: text(&start.config)?.unwrap_or_else(|| "{}".into()) };
        guest::start(&hello).map_err(Error::undecided)?;
        Ok(Adapter)
    }

    fn review(&self, review: &Review<'_>) -> Result<Verdict> {
        verdict(guest::review(&request(review)?).map_err(Error::undecided)?)
    }
}

pintle_sdk::admission!(Adapter);

fn request(review: &Review<'_>) -> Result<guest::Request> {
    let target = &review.target;
    let mut related = Vec::new();
    for (name, objects) in review.related_lists() {
        let objects = objects.iter().map(|object| Ok(text(object)?.unwrap_or_default())).collect::<Result<_>>()?;
        related.push(guest::Related { name: (*name).into(), objects });
    }
    Ok(guest::Request {
        operation: match review.operation {
            Operation::Create => guest::Operation::Create,
            Operation::Update => guest::Operation::Update,
            Operation::Delete => guest::Operation::Delete,
            Operation::Connect => guest::Operation::Connect,
        },
        phase: match review.phase {
            Phase::Mutating => guest::Phase::Mutating,
            Phase::Validating => guest::Phase::Validating,
        },
        target: guest::ObjectRef {
            group: target.group.clone(),
            resource: target.resource.clone(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
        },
        version: review.version.into(),
        kind: review.kind.into(),
        subresource: review.subresource.into(),
        user_name: review.user_name.into(),
        user_groups: review.user_groups.iter().map(|group| (*group).into()).collect(),
        dry_run: review.dry_run,
        object: text(review.bytes())?,
        old_object: text(review.old_bytes())?,
        related,
    })
}

fn verdict(answer: guest::Verdict) -> Result<Verdict> {
    let failure = answer.refusal.map(|refusal| Failure { code: refusal.code, reason: refusal.reason, message: refusal.message });
    let edits = answer.edits.into_iter().map(edit).collect::<Result<_>>()?;
    Ok(Verdict { failure, edits, warnings: answer.warnings, audit_annotations: answer.audit_annotations })
}

fn edit(edit: guest::Edit) -> Result<Edit> {
    let guest::Edit { op, path, value } = edit;
    let json =
        || serde_json::from_str::<Value>(&value).map_err(|e| Error::undecided(format!("the value of an edit at {path} is not JSON: {e}")));
    Ok(match op {
        guest::EditOp::Add => Edit::Add(path.clone(), json()?),
        guest::EditOp::Replace => Edit::Replace(path.clone(), json()?),
        guest::EditOp::Remove => Edit::Remove(path),
    })
}

/// JSON as text; `None` when there is none.
fn text(bytes: &[u8]) -> Result<Option<String>> {
    let text = std::str::from_utf8(bytes).map_err(|e| Error::undecided(format!("what the kernel sent is no text: {e}")))?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
