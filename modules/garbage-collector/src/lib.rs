//! Deletes what has lost its owners, and carries out foreground and orphaning deletions. Has objects stored anew in the version of today
//! (StorageVersionMigrations): the other work that looks at every kind of object.
//!
//! Not here: any graph. Each look is at one object, with the owners it names and the objects that name it, as the kernel's index has them.
//! Invariant: nothing is deleted while one of its owners exists. An owner is what bears the uid, in the same namespace or in none; and a delete
//! or a change of references holds only while the object is as it was seen.

mod migration;
mod plan;

use pintle_sdk::prelude::*;

/// The controller; it remembers nothing.
pub struct GarbageCollector;

impl Controller for GarbageCollector {
    fn start(_: &Start) -> Result<Self> {
        Ok(GarbageCollector)
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        if request.has_related("definitions") {
            return migration::reconcile(now, request);
        }
        let Some(object) = request.object::<Partial>()? else {
            return Ok(plan::gone(&request.target, &request.related_partials("dependents")?));
        };
        // Most objects are neither owned nor on their way out: their neighbours need not be read.
        if object.metadata.owner_references.is_empty() && !object.metadata.is_terminating() {
            return Ok(Plan::new());
        }
        Ok(plan::plan(&object, &request.target, &request.related_partials("owners")?, &request.related_partials("dependents")?))
    }
}

pintle_sdk::controller!(GarbageCollector);
