//! What a namespace's accounts should be.

use pintle_sdk::prelude::*;

/// The account that pods get when they name none.
const DEFAULT: &str = "default";

/// Creates the default account of a live namespace when it is missing.
pub fn plan(namespace: &Metadata, accounts: &[Partial]) -> Result<Plan> {
    if namespace.is_terminating() || accounts.iter().any(|account| account.metadata.name == DEFAULT) {
        return Ok(Plan::new());
    }
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": DEFAULT, "namespace": namespace.name},
    });
    Ok(Plan::new().create(&Untyped::new(account)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Partial {
        Partial { metadata: Metadata { name: name.into(), ..Metadata::default() }, ..Partial::default() }
    }

    #[test]
    fn a_namespace_without_a_default_account_gets_one() -> Result<()> {
        let plan = plan(&named("shop").metadata, &[named("other")])?;
        assert_eq!(plan.writes.len(), 1);
        assert_eq!(plan.writes[0].target, ObjectRef::named("", "serviceaccounts", "shop", "default"));
        Ok(())
    }

    #[test]
    fn an_account_that_exists_is_left_alone() -> Result<()> {
        assert!(plan(&named("shop").metadata, &[named("default")])?.is_empty());
        Ok(())
    }

    #[test]
    fn a_namespace_that_is_going_gets_nothing() -> Result<()> {
        let going = Metadata { deletion_timestamp: Some(Time(0)), ..named("shop").metadata };
        assert!(plan(&going, &[])?.is_empty());
        Ok(())
    }

    #[test]
    fn accounts_are_made_the_same_way_under_every_disturbance() -> Result<()> {
        use pintle_sdk::testing::{Disturbed, FakeKernel};
        let begin = || {
            let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
            for name in ["a", "b", "c"] {
                kernel.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
            }
            Ok(kernel)
        };
        Disturbed::new(begin, || Ok(crate::ServiceAccounts)).check()?;
        Ok(())
    }
}
