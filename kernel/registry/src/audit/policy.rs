//! Which requests are audited and how closely: a policy of `audit.k8s.io/v1`, read once.
//!
//! Facts: <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/> and the type's documentation. The first rule that matches decides; what
//! none matches is not audited.

use pintle_api::decode::{self, Format};
use serde::{Deserialize, de::IgnoredAny};

use super::{About, Level, Stage};

/// A policy file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
    rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rule {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a policy says about a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) level: Level,
    pub(super) omit_stages: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

impl Policy {
    /// Reads one, JSON or YAML.
    ///
    /// # Errors
    /// The field that cannot be acted on, and why.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let (value, repeated) = decode::parse(text, Format::Yaml).map_err(|error| error.message)?;
        if let Some(issue) = repeated.first() {
            return Err(issue.to_string());
        }
        let policy: Self = serde_path_to_error::deserialize(value).map_err(|error| error.to_string())?;
        match (policy.api_version.as_str(), policy.kind.as_str()) {
            ("audit.k8s.io/v1", "Policy") => {}
            ("audit.k8s.io/v1", other) => return Err(format!("kind: must be Policy, not {other:?}")),
            (other, _) => return Err(format!("apiVersion: must be audit.k8s.io/v1, not {other:?}")),
        }
        if policy.rules.is_empty() {
            return Err("rules: there must be at least one".to_owned());
        }
        policy.rules.iter().enumerate().try_for_each(|(index, rule)| rule.check().map_err(|why| format!("rules[{index}].{why}")))?;
        Ok(policy)
    }

    pub(super) fn decide(&self, about: &About<'_>) -> Option<Decision> {
        let rule = self.rules.iter().find(|rule| rule.matches(about)).filter(|rule| rule.level > Some(Level::None))?;
        Some(Decision {
            level: rule.level?,
            omit_stages: [&self.omit_stages[..], &rule.omit_stages].concat(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        })
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if self.level.is_none() {
            return Err("level: must be None, Metadata, Request or RequestResponse".to_owned());
        }
        let about_objects = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_objects && !self.non_resource_urls.is_empty() {
            return Err("nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".to_owned());
        }
        let bad = |url: &&String| *url != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*') || url.ends_with("**"));
        if let Some(url) = self.non_resource_urls.iter().find(bad) {
            return Err(format!("nonResourceURLs: {url:?} must begin with a '/', and a '*' may only be its last character"));
        }
        let names = |group: &GroupResources| group.resources.is_empty() && !group.resource_names.is_empty();
        match self.resources.iter().position(names) {
            Some(at) => Err(format!("resources[{at}].resourceNames: using resourceNames requires at least one resource")),
            None => Ok(()),
        }
    }

    fn matches(&self, about: &About<'_>) -> bool {
        let any = |list: &[String], word: &str| list.is_empty() || list.iter().any(|entry| entry == word);
        if !any(&self.users, &about.caller.user)
            || !any(&self.verbs, about.verb)
            || !self.user_groups.is_empty() && !self.user_groups.iter().any(|group| about.caller.groups.contains(group))
        {
            return false;
        }
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            let of_kind = || self.resources.is_empty() || self.resources.iter().any(|resources| resources.name(about));
            return about.is_resource && any(&self.namespaces, about.namespace) && of_kind();
        }
        let url = |pattern: &String| pattern == about.path || pattern.strip_suffix('*').is_some_and(|start| about.path.starts_with(start));
        self.non_resource_urls.is_empty() || !about.is_resource && self.non_resource_urls.iter().any(url)
    }
}

impl GroupResources {
    fn name(&self, about: &About<'_>) -> bool {
        let named = |entry: &String| match entry.split_once('/') {
            None => entry == "*" || entry == about.resource && about.subresource.is_empty(),
            Some((resource, part)) => {
                !about.subresource.is_empty()
                    && [(resource, about.resource), (part, about.subresource)].iter().all(|(a, b)| *a == "*" || a == b)
            }
        };
        self.group == about.group
            && (self.resources.is_empty() || self.resources.iter().any(named))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == about.name))
    }
}
