//! Who asks. The registry decides nothing by it: it is carried to admission and into records.

use std::collections::BTreeMap;

use serde_json::{Value, json};

const KERNEL: &str = "system:pintle-kernel";

/// The authenticated identity behind a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// User name, e.g. `system:node:n1`.
    pub user: String,
    /// User id; empty when the authenticator gives none.
    pub uid: String,
    /// Groups, e.g. `system:masters`.
    pub groups: Vec<String>,
    /// What else the authenticator said.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// A user with groups, and `system:authenticated` added to them.
    #[must_use]
    pub fn user(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        Self { user: user.into(), groups, ..Self::default() }
    }

    /// The kernel itself: bootstrap, and what it records on its own account.
    #[must_use]
    pub fn kernel() -> Self {
        Self::user(KERNEL, ["system:masters"])
    }

    /// Whether this is the kernel itself.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.user == KERNEL
    }

    /// The module of this name.
    #[must_use]
    pub fn module(name: &str) -> Self {
        Self::user(format!("system:pintle-module:{name}"), ["system:pintle-modules"])
    }

    /// The machine of this name, over its link.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::user(format!("system:node:{name}"), ["system:nodes"])
    }

    /// The name under which its writes own fields when they do not say one.
    pub(crate) fn manager(&self) -> &str {
        if self.user.starts_with("system:node:") { "kubelet" } else { &self.user }
    }

    /// As the API writes it, without what is empty.
    #[must_use]
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.user, "uid": self.uid, "groups": self.groups, "extra": self.extra});
        if let Some(info) = info.as_object_mut() {
            info.retain(|_, value| *value != "" && *value != json!([]) && *value != json!({}));
        }
        info
    }

    /// A request that showed no identity.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { user: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()], ..Self::default() }
    }
}
