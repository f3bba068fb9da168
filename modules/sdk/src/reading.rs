//! Reads that the manifest does not relate.
//!
//! The problem: a guest never waits, so a controller cannot ask and go on when the answer is there. The answer: it says what it wants to know and ends; what it
//! wants is read by the module's own readers, and the controller is asked again from the beginning, with the answers among the related objects.
//!
//! Invariant: a decision is a function of what the result of the call says was asked and read ([`Answer`]s travel back with the plan). So records can be
//! replayed and shadows compared: whoever is asked again is given the answers, and need not read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use pintle_wit::common_capnp::outcome;
use pintle_wit::controller_capnp::related;
use pintle_wit::objects_capnp::object_reader;

use crate::controller::{text, write_ref};
use crate::{Controller, Error, ObjectRef, Plan, Request, Result, Time};

/// How often a controller may be asked about one object because it wants to read more.
pub(crate) const ROUNDS_MAX: usize = 32;

/// What to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Empty for the core group.
    pub group: String,
    /// Lower-case plural, e.g. `replicasets`.
    pub resource: String,
    /// Empty: of the whole cluster.
    pub namespace: String,
    /// Empty: all of them.
    pub name: String,
    /// In the words of `kubectl get --selector`; empty: whatever their labels. Not beside a name.
    pub label_selector: String,
}

impl Query {
    /// One object by its name; `namespace` is empty for what lives in none.
    pub fn one(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Query { name: name.into(), ..Query::all(group, resource, namespace) }
    }

    /// All objects of a resource in a namespace, or in all of them when `namespace` is empty.
    pub fn all(group: &str, resource: &str, namespace: &str) -> Self {
        Query { group: group.into(), resource: resource.into(), namespace: namespace.into(), ..Query::default() }
    }

    /// Those of them with such labels, in the words of `kubectl get --selector`.
    #[must_use]
    pub fn labelled(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.label_selector);
        self
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}/{}", self.group, self.resource, self.namespace, self.name)?;
        if self.label_selector.is_empty() { Ok(()) } else { write!(f, "?{}", self.label_selector) }
    }
}

/// What a request could not be decided without.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted(RefCell<Vec<(String, Query)>>);

impl Wanted {
    pub(crate) fn note(&self, name: &str, query: &Query) {
        let mut wanted = self.0.borrow_mut();
        if wanted.iter().all(|(known, _)| known != name) {
            wanted.push((name.to_owned(), query.clone()));
        }
    }

    pub(crate) fn take(&self) -> Vec<(String, Query)> {
        self.0.take()
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) resource: String,
    pub(crate) objects: Vec<Vec<u8>>,
}

impl Answer {
    pub(crate) fn write(&self, mut builder: related::Builder<'_>) {
        builder.set_name(&self.name);
        let count = self.objects.len() as u32;
        let mut plurals = builder.reborrow().init_resources(count);
        (0..count).for_each(|i| plurals.set(i, &self.resource));
        let mut objects = builder.init_objects(count);
        (0..).zip(&self.objects).for_each(|(i, object)| objects.set(i, object));
    }
}

/// The readers that the module was given, by the names of their exports.
#[derive(Clone, Default)]
pub struct Readers(Rc<RefCell<BTreeMap<String, object_reader::Client>>>);

impl Readers {
    pub(crate) fn add(&self, name: &str, reader: object_reader::Client) {
        self.0.borrow_mut().insert(name.to_owned(), reader);
    }

    /// What the controller decides, asked until it wants to read nothing more; and what was read.
    pub(crate) async fn decide(
        &self,
        controller: &RefCell<impl Controller>,
        now: Time,
        request: &Request<'_>,
    ) -> (Result<Plan>, Vec<Answer>) {
        let mut known = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let (decision, wanted) = {
                let asked = request.with(&known);
                let decision = controller.borrow_mut().reconcile(now, &asked);
                (decision, asked.take_wanted())
            };
            if wanted.is_empty() {
                return (decision, known);
            }
            for (name, query) in wanted {
                match self.read(name, &query).await {
                    Ok(answer) => known.push(answer),
                    Err(error) => return (Err(error), known),
                }
            }
        }
        (Err(Error::undecided(format!("it wanted to read more {ROUNDS_MAX} times"))), known)
    }

    async fn read(&self, name: String, query: &Query) -> Result<Answer> {
        let of = format!("{}/{}", query.group, query.resource);
        let reader = {
            let readers = self.0.borrow();
            readers.get(&of).or_else(|| readers.get("*/*")).cloned()
        };
        let reader = reader.ok_or_else(|| {
            Error::undecided(format!(
                "{query} cannot be read: it is not granted or, where a record is asked again, was not read when it was made"
            ))
        })?;
        let objects = if query.name.is_empty() { list(&reader, query).await } else { get(&reader, query).await }?;
        Ok(Answer { name, resource: query.resource.clone(), objects })
    }
}

async fn get(reader: &object_reader::Client, query: &Query) -> Result<Vec<Vec<u8>>> {
    let mut call = reader.get_request();
    let target = ObjectRef {
        group: query.group.clone(),
        resource: query.resource.clone(),
        namespace: query.namespace.clone(),
        name: query.name.clone(),
        uid: String::new(),
    };
    write_ref(call.get().init_refs(1).get(0), &target);
    let answer = call.send().promise.await?;
    let outcomes = answer.get()?.get_outcomes()?;
    match outcomes.try_get(0).map(|outcome| outcome.which()) {
        Some(Ok(outcome::Object(object))) => Ok(vec![object?.to_vec()]),
        Some(Ok(outcome::Failure(failure))) => match failure? {
            failure if failure.get_code() == 404 => Ok(Vec::new()),
            failure => Err(Error::undecided(format!("{query} cannot be read: {}", text(failure.get_message())?))),
        },
        _ => Err(Error::undecided(format!("{query} was read without an outcome"))),
    }
}

async fn list(reader: &object_reader::Client, query: &Query) -> Result<Vec<Vec<u8>>> {
    let mut call = reader.list_request();
    let mut asked = call.get().init_query();
    asked.set_label_selector(&query.label_selector);
    let mut target = asked.init_target();
    target.set_group(&query.group);
    target.set_resource(&query.resource);
    target.set_namespace(&query.namespace);
    let answer = call.send().promise.await?;
    let answer = answer.get()?;
    if answer.has_failure() {
        return Err(Error::undecided(format!("{query} cannot be read: {}", text(answer.get_failure()?.get_message())?)));
    }
    answer.get_page()?.get_objects()?.iter().map(|object| Ok(object?.to_vec())).collect()
}
