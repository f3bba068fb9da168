//! Controllers in other languages: a controller module like any other, that asks the guest joined to it.
//!
//! It decides nothing and holds nothing. What the guest answers is checked for its shape here (objects are JSON) and for its meaning by the
//! kernel, which also carries it out.

mod guest;

use pintle_sdk::{
    Action, DeleteOptions, Error, Event, ObjectRef, PatchKind, Plan, Query, Request, Result, Start, Time, Write,
    serde_json::{self, Value},
};
use std::time::Duration;

struct Adapter;

impl pintle_sdk::Controller for Adapter {
    fn start(start: &Start) -> Result<Self> {
        let hello = guest::Hello { module_name: start.module_name.clone(), config: text(&start.config)?.unwrap_or_else(|| "{}".into()) };
        guest::start(&hello).map_err(Error::undecided)?;
        Ok(Adapter)
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        let answer = guest::reconcile(&ask(now, request)?);
        let wanted = guest::wanted();
        for query in &wanted {
            request.want(&query.name, &read(query))?;
        }
        if wanted.is_empty() {
            plan(answer.map_err(Error::undecided)?)
        } else {
            Err(Error::Unread(format!("what it wants ({})", wanted.len())))
        }
    }
}

pintle_sdk::controller!(Adapter);

fn ask(now: Time, request: &Request<'_>) -> Result<guest::Request> {
    let target = &request.target;
    let mut related = Vec::new();
    for (name, objects) in request.related_lists() {
        let objects = objects.iter().map(|object| Ok(text(object)?.unwrap_or_default())).collect::<Result<_>>()?;
        related.push(guest::Related { name: (*name).into(), objects });
    }
    Ok(guest::Request {
        target: guest::ObjectRef {
            group: target.group.clone(),
            resource: target.resource.clone(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
        },
        attempt: request.attempt,
        now_millis: u64::try_from(now.0).unwrap_or(0),
        object: text(request.bytes())?,
        related,
    })
}

fn read(query: &guest::Query) -> Query {
    Query {
        group: query.group.clone(),
        resource: query.resource.clone(),
        namespace: query.namespace.clone(),
        name: query.object_name.clone(),
        label_selector: query.label_selector.clone(),
    }
}

fn plan(answer: guest::Plan) -> Result<Plan> {
    let mut plan = answer.writes.into_iter().map(write).collect::<Result<Plan>>()?;
    plan.events = answer.events.into_iter().map(|e| Event { warning: e.warning, reason: e.reason, message: e.message }).collect();
    if let Some(millis) = answer.requeue_after_millis {
        plan.wake_after(Duration::from_millis(millis));
    }
    Ok(plan)
}

fn write(write: guest::Write) -> Result<Write> {
    let target = write.target;
    let json = |text: &str| {
        let of = format!("{}/{} {}", target.group, target.resource, target.name);
        serde_json::from_str::<Value>(text).map_err(|e| Error::undecided(format!("what to write to {of} is not JSON: {e}")))
    };
    let action = match &write.action {
        guest::Action::Create(object) => Action::Create(json(object)?),
        guest::Action::Update(object) => Action::Update(json(object)?),
        guest::Action::Patch(patch) => {
            let kind = match patch.kind {
                guest::PatchKind::Json => PatchKind::Json,
                guest::PatchKind::Merge => PatchKind::Merge,
                guest::PatchKind::Strategic => PatchKind::Strategic,
                guest::PatchKind::Apply => PatchKind::Apply,
            };
            Action::Patch(kind, json(&patch.body)?)
        }
        guest::Action::Delete => Action::Delete(DeleteOptions::default()),
    };
    let target =
        ObjectRef { group: target.group, resource: target.resource, namespace: target.namespace, name: target.name, uid: target.uid };
    Ok(Write { target, subresource: write.subresource, action })
}

/// JSON as text; `None` when there is none.
fn text(bytes: &[u8]) -> Result<Option<String>> {
    let text = std::str::from_utf8(bytes).map_err(|e| Error::undecided(format!("what the kernel sent is no text: {e}")))?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
