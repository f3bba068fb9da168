//! A controller of one's own: every namespace with a label `greet` gets a ConfigMap `greeting` that greets whom the label names.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;

struct Greeter {
    greeting: String,
}

impl Controller for Greeter {
    fn start(start: &Start) -> Result<Self> {
        let config: Value = start.config()?;
        Ok(Greeter { greeting: config["greeting"].as_str().unwrap_or("Hello").to_owned() })
    }

    fn reconcile(&mut self, _now: Time, request: &Request) -> Result<Plan> {
        let Some(namespace) = request.object::<Partial>()? else { return Ok(Plan::new()) };
        let Some(name) = namespace.metadata.labels.get("greet").filter(|_| !namespace.metadata.is_terminating()) else {
            return Ok(Plan::new());
        };
        let text = format!("{}, {name}!", self.greeting);

        let existing: Vec<Value> = request.related("configmaps")?;
        match existing.iter().find(|map| map["metadata"]["name"] == "greeting") {
            Some(map) if map["data"]["text"] == text => Ok(Plan::new()),
            Some(map) => Ok(Plan::new().patch(Untyped::new(map.clone())?.target(), json!({"data": {"text": text}}))),
            None => {
                let map = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": "greeting", "namespace": namespace.metadata.name},
                    "data": {"text": text},
                });
                Ok(Plan::new().create(&Untyped::new(map)?).event("Greeted", format!("said hello to {name}")))
            }
        }
    }
}

pintle_sdk::controller!(Greeter);

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::testing::FakeKernel;

    #[test]
    fn a_namespace_with_the_label_is_greeted_and_kept_greeted() -> Result<()> {
        let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
        let mut greeter = Greeter::start(&Start::default())?;
        kernel.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "home", "labels": {"greet": "world"}}}))?;
        kernel.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "quiet"}}))?;
        kernel.settle(&mut greeter)?;
        assert_eq!(kernel.list("/configmaps").len(), 1);
        kernel.edit("/configmaps", "home", "greeting", |map| map["data"]["text"] = json!("Bye!"));
        kernel.settle(&mut greeter)?;
        assert_eq!(kernel.get("/configmaps", "home", "greeting").map(|map| map["data"]["text"].clone()), Some(json!("Hello, world!")));
        Ok(())
    }
}
