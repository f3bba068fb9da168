//! What a controller read between question and answer, put into the question: whoever is asked again need not read, and could not.

use crate::{Outcome, RecordError};
use capnp::{message, serialize, traits::HasTypeId};
use pintle_wit::controller_capnp::{controller, request, result};
use std::borrow::Cow;

/// The parameters of a call, with what was read for its answer among what is related; as they are when nothing was.
pub fn with_reads<'a>(interface: u64, method: u16, params: &'a [u8], outcome: &Outcome) -> Cow<'a, [u8]> {
    match outcome {
        Outcome::Answer(answer) if (interface, method) == (controller::Client::TYPE_ID, 0) => match joined(params, answer) {
            Ok(Some(joined)) => joined.into(),
            // What cannot be read was answered otherwise, and that will be told.
            Ok(None) | Err(_) => params.into(),
        },
        _ => params.into(),
    }
}

fn joined(mut params: &[u8], mut answer: &[u8]) -> Result<Option<Vec<u8>>, RecordError> {
    let (params, answer) =
        (serialize::read_message(&mut params, crate::options())?, serialize::read_message(&mut answer, crate::options())?);
    let params = params.get_root::<controller::reconcile_params::Reader<'_>>()?;
    let results = answer.get_root::<controller::reconcile_results::Reader<'_>>()?.get_results()?;
    if results.iter().all(|result| !result.has_reads()) {
        return Ok(None);
    }
    let mut message = message::Builder::new_default();
    let mut out = message.init_root::<controller::reconcile_params::Builder<'_>>();
    out.set_now_millis(params.get_now_millis());
    let mut requests = out.init_requests(params.get_requests()?.len());
    for (i, (request, result)) in (0..).zip(params.get_requests()?.iter().zip(results)) {
        join(request, result, requests.reborrow().get(i))?;
    }
    Ok(Some(serialize::write_message_to_words(&message)))
}

fn join(request: request::Reader<'_>, result: result::Reader<'_>, mut out: request::Builder<'_>) -> Result<(), RecordError> {
    out.set_ref(request.get_ref()?)?;
    out.set_object(request.get_object()?);
    out.set_attempt(request.get_attempt());
    let (related, reads) = (request.get_related()?, result.get_reads()?);
    let mut all = out.init_related(related.len() + reads.len());
    for (i, one) in (0..).zip(related.iter().chain(reads)) {
        all.set_with_caveats(i, one)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Vec<u8> {
        let mut message = message::Builder::new_default();
        let mut params = message.init_root::<controller::reconcile_params::Builder<'_>>();
        params.set_now_millis(7);
        let mut requests = params.init_requests(2);
        for (i, name) in ["a", "b"].into_iter().enumerate() {
            let mut request = requests.reborrow().get(i as u32);
            request.set_object(name.as_bytes());
            request.reborrow().init_ref().set_name(name);
            request.init_related(1).get(0).set_name("pods");
        }
        serialize::write_message_to_words(&message)
    }

    fn answered(reads: &[&str]) -> Outcome {
        let mut message = message::Builder::new_default();
        let results = message.init_root::<controller::reconcile_results::Builder<'_>>().init_results(2);
        if !reads.is_empty() {
            let mut list = results.get(1).init_reads(reads.len() as u32);
            for (i, name) in reads.iter().enumerate() {
                let mut read = list.reborrow().get(i as u32);
                read.set_name(name);
                read.init_objects(1).set(0, b"{}");
            }
        }
        Outcome::Answer(serialize::write_message_to_words(&message))
    }

    /// The names of what is related, a list for each request, and how many objects there are in all.
    fn related(params: &[u8]) -> (Vec<Vec<String>>, u32) {
        let message = serialize::read_message(&mut &params[..], crate::options()).expect("a message");
        let params = message.get_root::<controller::reconcile_params::Reader<'_>>().expect("parameters");
        assert_eq!(params.get_now_millis(), 7);
        let lists: Vec<_> = params.get_requests().expect("requests").iter().map(|request| request.get_related().expect("lists")).collect();
        let name = |one: pintle_wit::controller_capnp::related::Reader<'_>| one.get_name().expect("a name").to_string().expect("text");
        let objects = lists.iter().flat_map(|list| list.iter()).map(|one| one.get_objects().expect("objects").len()).sum();
        (lists.iter().map(|list| list.iter().map(name).collect()).collect(), objects)
    }

    #[test]
    fn what_was_read_stands_beside_what_was_related() {
        let params = asked();
        let joined = with_reads(controller::Client::TYPE_ID, 0, &params, &answered(&["x", "y"]));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(related(&joined), (vec![names(&["pods"]), names(&["pods", "x", "y"])], 2));
    }

    #[test]
    fn what_read_nothing_is_asked_as_it_was() {
        let params = asked();
        for (interface, outcome) in [
            (controller::Client::TYPE_ID, answered(&[])),
            (controller::Client::TYPE_ID, Outcome::Error("no".into())),
            (controller::Client::TYPE_ID, Outcome::Answer(vec![1, 2, 3])),
            (7, answered(&["x"])),
        ] {
            assert!(matches!(with_reads(interface, 0, &params, &outcome), Cow::Borrowed(same) if same == params));
        }
    }
}
