//! What a request asks for, read from its method and path: upstream's grammar (`requestinfo.go`), nothing else.
//!
//! `/api/v1/...` and `/apis/{group}/{version}/...` with at least a resource are resource requests; all else is a
//! non-resource path. No lookups here: whether the resource exists is the dispatcher's business, after authorization.

use http::Method;

/// A request, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RequestInfo {
    /// The whole path, percent-decoded.
    pub(crate) path: String,
    /// Names a resource.
    pub(crate) is_resource: bool,
    /// For a resource: get, list, watch, create, update, patch, delete, deletecollection, proxy. Else the method in lower case.
    pub(crate) verb: &'static str,
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    /// For `namespaces` itself also its own name, as upstream has it.
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows the subresource, without a leading slash (`proxy/{path}`).
    pub(crate) rest: String,
}

/// Subresources of namespaces; anything else after a namespace's name is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Read a request line. `None`: the path is not well-formed.
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Option<RequestInfo> {
        let path = decode(path, Plus::IsPlus)?;
        let mut info = RequestInfo { verb: method_verb(method), ..Self::default() };
        let mut parts = path.trim_matches('/').split('/');
        let found = match parts.next() {
            Some("api") => info.read_version(String::new(), parts, method, query),
            Some("apis") => match parts.next() {
                Some(group) => info.read_version(group.to_owned(), parts, method, query),
                None => None,
            },
            _ => None,
        };
        info.is_resource = found.is_some();
        info.path = path;
        Some(info)
    }

    /// `{version}/[watch|proxy/]{resource...}`; `None` when no resource is named.
    fn read_version<'p>(&mut self, group: String, mut parts: impl Iterator<Item = &'p str>, method: &Method, query: &Query) -> Option<()> {
        let version = parts.next()?.to_owned();
        let mut parts: Vec<&str> = parts.collect();
        let legacy_watch = parts.first() == Some(&"watch") && parts.len() > 1;
        if legacy_watch {
            parts.remove(0);
        }
        self.read_parts(&parts)?;
        self.group = group;
        self.version = version;
        self.verb = self.resource_verb(method, query, legacy_watch);
        Some(())
    }

    fn read_parts(&mut self, parts: &[&str]) -> Option<()> {
        let mut parts = parts;
        if parts.first() == Some(&"namespaces") && parts.len() > 1 {
            self.namespace = parts[1].to_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts = &parts[2..];
            }
        }
        self.resource = (*parts.first().filter(|part| !part.is_empty())?).to_owned();
        self.name = parts.get(1).copied().unwrap_or_default().to_owned();
        self.subresource = parts.get(2).copied().unwrap_or_default().to_owned();
        self.rest = parts.get(3..).map(|rest| rest.join("/")).unwrap_or_default();
        Some(())
    }

    fn resource_verb(&mut self, method: &Method, query: &Query, legacy_watch: bool) -> &'static str {
        let verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => method_verb(method),
        };
        let reading = verb == "get";
        if reading && (legacy_watch || (self.subresource.is_empty() && query.flag("watch"))) {
            if self.name.is_empty() {
                self.name = query.name_selected().unwrap_or_default();
            }
            return "watch";
        }
        if !self.name.is_empty() {
            return verb;
        }
        match verb {
            "get" => {
                self.name = query.name_selected().unwrap_or_default();
                "list"
            }
            "delete" => "deletecollection",
            other => other,
        }
    }
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        Method::CONNECT => "connect",
        _ => "unknown",
    }
}

/// The query string, decoded, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Read a query string. `None`: an escape in it is broken.
    pub(crate) fn parse(text: Option<&str>) -> Option<Query> {
        let Some(text) = text else { return Some(Query::default()) };
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key, Plus::IsSpace)?, decode(value, Plus::IsSpace)?));
        }
        Some(Query(pairs))
    }

    /// The first value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of `key`, or nothing said.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// All values of `key`, in order.
    pub(crate) fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// As upstream reads booleans: present and neither `0` nor `false`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }

    /// The name that a field selector `metadata.name=x` asks for: authorization may be bound to it.
    fn name_selected(&self) -> Option<String> {
        let mut terms = self.text("fieldSelector").split(',').map(str::trim);
        terms.find_map(|term| {
            let value = term.strip_prefix("metadata.name=")?;
            Some(value.strip_prefix('=').unwrap_or(value).to_owned())
        })
    }
}

/// What `+` stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    IsPlus,
    IsSpace,
}

/// Undo percent-encoding. `None`: a broken escape, or not UTF-8.
fn decode(text: &str, plus: Plus) -> Option<String> {
    let spaces = plus == Plus::IsSpace && text.contains('+');
    if !spaces && !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if spaces => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests;
