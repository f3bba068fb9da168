//! What is read of the Gateway API's objects and of what stands around them. Fields: <https://gateway-api.sigs.k8s.io/reference/spec/>.

use std::collections::BTreeMap;

use pintle_sdk::serde_json::Value;
use pintle_sdk::{Condition, Selector, prelude::*};
use serde::Deserialize;

/// Declares a struct of fields that may all be missing.
macro_rules! read {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $(pub $field: $kind),* }
    )*};
}

read! {
    /// A GatewayClass.
    Class { metadata: Metadata, spec: ClassSpec, status: Value }
    ClassSpec { controller_name: String }
    /// A Gateway.
    Gateway { metadata: Metadata, spec: GatewaySpec, status: Value }
    GatewaySpec { gateway_class_name: String, listeners: Vec<Listener> }
    /// A listener of a Gateway.
    Listener { name: String, hostname: String, port: u16, protocol: String, tls: Option<Tls>, allowed_routes: AllowedRoutes }
    Tls { mode: String, certificate_refs: Vec<Reference> }
    AllowedRoutes { namespaces: RouteNamespaces, kinds: Option<Vec<GroupKind>> }
    RouteNamespaces { from: String, selector: Option<Selector> }
    GroupKind { group: Option<String>, kind: String }
    /// A reference to a Service or a Secret.
    Reference { group: String, kind: String, namespace: String, name: String, port: u16 }
    /// An HTTPRoute.
    Route { metadata: Metadata, spec: RouteSpec, status: Value }
    RouteSpec { parent_refs: Vec<ParentRef>, hostnames: Vec<String>, rules: Vec<Rule> }
    /// What a route wants to attach to.
    ParentRef { group: Option<String>, kind: String, namespace: String, name: String, section_name: String, port: u16 }
    /// A rule of a route.
    Rule { matches: Vec<Match>, filters: Vec<Filter>, backend_refs: Vec<BackendRef>, timeouts: Timeouts, retry: Option<Retry> }
    Match { path: Option<PathMatch>, headers: Vec<Value>, query_params: Vec<Value>, method: String }
    PathMatch { r#type: String, value: String }
    /// A filter; which of its fields count is said by its type.
    Filter {
        r#type: String,
        request_header_modifier: Option<Headers>,
        response_header_modifier: Option<Headers>,
        request_mirror: Option<Mirror>,
        request_redirect: Option<Redirect>,
        url_rewrite: Option<Redirect>,
    }
    Headers { set: Vec<Value>, add: Vec<Value>, remove: Vec<String> }
    Mirror { backend_ref: Reference, percent: Option<u32>, fraction: Option<Fraction> }
    Fraction { numerator: u32, denominator: Option<u32> }
    /// A redirect, or a rewrite, which has fewer fields.
    Redirect { scheme: String, hostname: String, port: u16, status_code: u16, path: Option<PathModifier> }
    PathModifier { r#type: String, replace_full_path: String, replace_prefix_match: String }
    BackendRef { group: String, kind: String, namespace: String, name: String, port: u16, weight: Option<u32>, filters: Vec<Filter> }
    Timeouts { request: String, backend_request: String }
    Retry { codes: Vec<u16>, attempts: Option<u32>, backoff: String }
    /// A ReferenceGrant.
    Grant { metadata: Metadata, spec: GrantSpec }
    GrantSpec { from: Vec<GrantFrom>, to: Vec<GrantTo> }
    GrantFrom { group: String, kind: String, namespace: String }
    GrantTo { group: String, kind: String, name: Option<String> }
    /// A Service.
    Service { metadata: Metadata, spec: ServiceSpec }
    ServiceSpec { ports: Vec<ServicePort> }
    ServicePort { port: u16 }
    /// An object of which only the metadata matter.
    Named { metadata: Metadata }
    /// A Secret without its secrets.
    Secret { metadata: Metadata, r#type: String }
    /// A RouteTable.
    Table { metadata: Metadata, spec: Value }
    /// A Node.
    Node { metadata: Metadata, status: NodeStatus }
    NodeStatus { addresses: Vec<Address>, conditions: Vec<Condition> }
    Address { r#type: String, address: String }
}

/// What references may lead to.
pub struct Around {
    /// Classes by name that are ours.
    pub classes: Vec<String>,
    /// Labels by namespace.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub grants: Vec<Grant>,
    /// Ports by namespace and name.
    pub services: BTreeMap<(String, String), Vec<u16>>,
}

impl Around {
    /// From what travelled with a request.
    pub fn of(request: &Request<'_>) -> Result<Self> {
        let classes = request.related::<Class>("classes")?.into_iter();
        let namespaces = request.related::<Named>("namespaces")?.into_iter();
        let services = request.related::<Service>("services")?.into_iter();
        let ports = |service: Service| {
            let key = (service.metadata.namespace, service.metadata.name);
            (key, service.spec.ports.iter().map(|port| port.port).collect())
        };
        Ok(Self {
            classes: classes.filter(|class| class.spec.controller_name == crate::CONTROLLER).map(|class| class.metadata.name).collect(),
            namespaces: namespaces.map(|namespace| (namespace.metadata.name, namespace.metadata.labels)).collect(),
            grants: request.related("grants")?,
            services: services.map(ports).collect(),
        })
    }

    /// Whether something of `kind` in `from` may name `name` of `to_kind` in another namespace.
    pub fn is_granted(&self, (kind, from): (&str, &str), (to_group, to_kind): (&str, &str), namespace: &str, name: &str) -> bool {
        from == namespace
            || self.grants.iter().filter(|grant| grant.metadata.namespace == namespace).any(|grant| {
                let from = grant.spec.from.iter().any(|f| f.group == crate::GROUP && f.kind == kind && f.namespace == from);
                let named = |to: &GrantTo| to.name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name);
                from && grant.spec.to.iter().any(|to| to.group == to_group && to.kind == to_kind && named(to))
            })
    }
}
