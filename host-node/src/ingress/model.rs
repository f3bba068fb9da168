//! What is read of RouteTables; `kernel/api/schema/pintle.rows` says what each field means.

use serde::Deserialize;

/// A RouteTable.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct RouteTable {
    /// When it was made: older tables come first.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

/// What is read of its metadata.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// RFC 3339, so it sorts as text.
    pub creation_timestamp: String,
}

/// Its listeners and rules.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Spec {
    /// Where requests come in.
    pub listeners: Vec<Listener>,
    /// What is done with them.
    pub rules: Vec<Rule>,
}

/// A port.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Listener {
    /// What rules call it.
    pub name: String,
    /// What clients ask for.
    pub port: u16,
    /// `HTTP` or `HTTPS`.
    pub protocol: String,
    /// Only for this host.
    pub hostname: String,
    /// Of HTTPS.
    pub certificates: Vec<Certificate>,
}

/// Names a Secret as it was at a revision.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificate {
    /// Of the Secret.
    pub namespace: String,
    /// Of the Secret.
    pub name: String,
    /// Of the Secret.
    pub resource_version: String,
}

/// What is done with some requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Names of listeners; empty: all.
    pub listeners: Vec<String>,
    /// Empty: all.
    pub hosts: Vec<String>,
    /// Empty: all.
    pub matches: Vec<Match>,
    /// Answered by this.
    pub redirect: Option<Redirect>,
    /// Of the target.
    pub rewrite: Option<Rewrite>,
    /// Of the request.
    pub request_headers: Headers,
    /// Of the response.
    pub response_headers: Headers,
    /// Who gets copies.
    pub mirrors: Vec<Backend>,
    /// Who answers.
    pub backends: Vec<Backend>,
    /// 0: without end.
    pub request_milliseconds: u64,
    /// 0: without end.
    pub backend_milliseconds: u64,
    /// When it is sent again.
    pub retry: Retry,
}

/// What a request must be.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Match {
    /// `Exact`, `Prefix` or `RegularExpression`.
    pub path_type: String,
    /// Empty: any.
    pub path: String,
    /// Empty: any.
    pub method: String,
    /// All of them.
    pub headers: Vec<NamedValue>,
    /// All of them.
    pub query: Vec<NamedValue>,
}

/// A value by its name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct NamedValue {
    /// Its name.
    pub name: String,
    /// Itself, or a pattern.
    pub value: String,
    /// `Exact` or `RegularExpression`.
    pub r#type: String,
}

/// Where a client is sent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// Empty: as it came.
    pub scheme: String,
    /// Empty: as it came.
    pub hostname: String,
    /// 0: as it came, or the new scheme's own.
    pub port: u16,
    /// `Full` or `Prefix`; empty: as it came.
    pub path_type: String,
    /// The replacement.
    pub path: String,
    /// 0: 302.
    pub status_code: u16,
}

/// What a target becomes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// Empty: as it came.
    pub hostname: String,
    /// `Full` or `Prefix`; empty: as it came.
    pub path_type: String,
    /// The replacement.
    pub path: String,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Headers {
    /// Replaced or added.
    pub set: Vec<NamedValue>,
    /// Added.
    pub add: Vec<NamedValue>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Backend {
    /// Of the Service.
    pub namespace: String,
    /// Empty: there is none.
    pub service: String,
    /// By number.
    pub port: u16,
    /// Or by name.
    pub port_name: String,
    /// Its share; of mirrors nothing.
    pub weight: Option<u32>,
    /// Of mirrors: how many in a hundred.
    pub percent: Option<u32>,
    /// For this backend alone.
    pub request_headers: Headers,
    /// Of its answers alone.
    pub response_headers: Headers,
}

/// When a request is sent again.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Beside the first try.
    pub attempts: u32,
    /// Answers that are tried again.
    pub status_codes: Vec<u16>,
    /// Before each.
    pub backoff_milliseconds: u64,
}
