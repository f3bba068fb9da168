//! `ConversionReview` (`apiextensions.k8s.io/v1`): custom resources in another version, by the webhook of their definition. The answer is a
//! stranger's: the registry holds it against what was asked.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use pintle_registry::Converter;
use serde_json::{Value, json};

use crate::outbound::https::{Callee, Connections};
use crate::server::Shared;

/// How long a webhook may take. Upstream's.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects in one question.
const OBJECTS_MAX: usize = 500;
/// Webhooks that are kept compiled; beyond, all are dropped.
const CALLEES_MAX: usize = 256;

/// See the module.
pub(crate) struct Conversions {
    server: Weak<Shared>,
    connections: Connections,
    /// By the text of their `clientConfig`.
    callees: Mutex<HashMap<String, Arc<Callee>>>,
}

impl Conversions {
    pub(crate) fn new(server: &Arc<Shared>) -> Self {
        Self { server: Arc::downgrade(server), connections: Connections::default(), callees: Mutex::default() }
    }

    fn callee(&self, config: &Value) -> Arc<Callee> {
        let mut callees = self.callees.lock();
        if callees.len() >= CALLEES_MAX {
            callees.clear();
        }
        Arc::clone(callees.entry(config.to_string()).or_insert_with(|| Arc::new(Callee::new(config))))
    }

    async fn ask(&self, conversion: &Value, api_version: &str, objects: &[Value]) -> Result<Vec<Value>, String> {
        let server = self.server.upgrade().ok_or("the server is stopping")?;
        let webhook = &conversion["webhook"];
        let callee = self.callee(&webhook["clientConfig"]);
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let version = versions.into_iter().find(|version| matches!(*version, "v1" | "v1beta1"));
        let review = format!("apiextensions.k8s.io/{}", version.ok_or("no supported conversion review versions")?);
        let mut made = Vec::with_capacity(objects.len());
        for part in objects.chunks(OBJECTS_MAX) {
            let uid = uuid::Uuid::new_v4().to_string();
            let question = json!({
                "kind": "ConversionReview", "apiVersion": review,
                "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": part},
            });
            let mut answer = self.connections.post(&server, &callee, &question, TIMEOUT).await?;
            check(&answer, &review, &uid)?;
            match answer["response"]["convertedObjects"].take() {
                Value::Array(objects) => made.extend(objects),
                _ => return Err("no objects returned".into()),
            }
        }
        Ok(made)
    }
}

impl Converter for Conversions {
    fn convert<'a>(
        &'a self,
        conversion: &'a Value,
        api_version: &'a str,
        objects: &'a [Value],
    ) -> BoxFuture<'a, Result<Vec<Value>, String>> {
        Box::pin(self.ask(conversion, api_version, objects))
    }
}

/// Whether an answer is one to what was asked, and says that it succeeded.
fn check(answer: &Value, review: &str, uid: &str) -> Result<(), String> {
    let response = &answer["response"];
    if answer["apiVersion"] != *review || answer["kind"] != "ConversionReview" {
        let got = format!("{}, Kind={}", answer["apiVersion"].as_str().unwrap_or_default(), answer["kind"].as_str().unwrap_or_default());
        return Err(format!("expected webhook response of {review}, Kind=ConversionReview, got {got}"));
    }
    if !response.is_object() {
        return Err("no response provided".into());
    }
    // Webhooks of the beta repeat it or not.
    if response["uid"] != *uid && review.ends_with("/v1") {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    match (response["result"]["status"].as_str().unwrap_or_default(), response["result"]["message"].as_str().unwrap_or_default()) {
        ("Success", _) => Ok(()),
        (status, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => Err(message.to_owned()),
    }
}
