//! Rules about pods that say on which system they run: what Linux alone or Windows alone has, and host processes.

use serde_json::Value;

use super::{Failures, Object, text};
use crate::path::Path;
use crate::status::FieldError;

/// What a pod for Windows cannot have, in the pod and in each container's security context.
#[rustfmt::skip]
const LINUX_OF_POD: [&str; 14] = [
    "hostPID", "hostIPC", "hostUsers", "shareProcessNamespace", "securityContext.appArmorProfile", "securityContext.seLinuxOptions", "securityContext.seccompProfile",
    "securityContext.fsGroup", "securityContext.fsGroupChangePolicy", "securityContext.sysctls", "securityContext.runAsUser", "securityContext.runAsGroup", "securityContext.supplementalGroups", "securityContext.supplementalGroupsPolicy",
];
#[rustfmt::skip]
const LINUX_OF_CONTAINER: [&str; 10] = [
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged", "allowPrivilegeEscalation", "procMount",
    "runAsUser", "runAsGroup",
];
const CREDENTIALS_MAX: usize = 64 << 10;

/// Containers of every kind with their paths.
fn containers<'a>(spec: &'a Object, path: &Path<'_>) -> impl Iterator<Item = (String, &'a Value)> {
    let at = path.to_string();
    super::pods::each(spec).map(move |(key, index, container)| (format!("{at}.{key}[{index}]"), container))
}

pub(super) fn pod(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    match spec.get("os").map_or("", |os| os["name"].as_str().unwrap_or_default()) {
        "windows" => {
            for at in LINUX_OF_POD {
                let value = match at.split_once('.') {
                    Some((outer, inner)) => spec.get(outer).and_then(|outer| outer.get(inner)),
                    None => spec.get(at).filter(|value| **value != Value::Bool(false) || !at.starts_with("hostP") && at != "hostIPC"),
                };
                if value.is_some() {
                    failures.push(FieldError::forbidden(format!("{path}.{at}"), "cannot be set for a windows pod"));
                }
            }
            for (at, container) in containers(spec, path) {
                for key in LINUX_OF_CONTAINER.iter().filter(|key| !container["securityContext"][**key].is_null()) {
                    failures.push(FieldError::forbidden(format!("{at}.securityContext.{key}"), "cannot be set for a windows pod"));
                }
            }
        }
        "linux" => {
            let of_pod = spec.get("securityContext").map(|context| (path.to_string(), &context["windowsOptions"]));
            let each = containers(spec, path).map(|(at, container)| (at, &container["securityContext"]["windowsOptions"]));
            for (at, _) in of_pod.into_iter().chain(each).filter(|(_, options)| !options.is_null()) {
                let at = format!("{at}.securityContext.windowsOptions");
                failures.push(FieldError::forbidden(at, "windows options cannot be set for a linux pod"));
            }
        }
        _ => {}
    }
    host_processes(spec, path, failures);
}

/// Either all containers are processes of the machine, on its network, or none is.
fn host_processes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let of_pod = spec.get("securityContext").and_then(|context| context["windowsOptions"]["hostProcess"].as_bool());
    let (mut all, mut any) = (true, false);
    for (at, container) in containers(spec, path) {
        let own = container["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            failures.push(FieldError::invalid(format!("{at}.securityContext.windowsOptions.hostProcess"), own, why));
        }
        let is = own.or(of_pod).unwrap_or(false);
        (all, any) = (all && is, any || is);
    }
    if any && !all {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        failures.push(FieldError::invalid(path, "", why));
    }
    let network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    if any && !network {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        failures.push(FieldError::invalid(path.key("hostNetwork"), network, why));
    }
}

/// The name of a user is `[DOMAIN\]USER`, as Windows takes it.
pub(super) fn options(options: &Object, path: &Path<'_>, failures: &mut Failures) {
    if let Some(credentials) = options.get("gmsaCredentialSpec").and_then(Value::as_str) {
        let at = path.key("gmsaCredentialSpec");
        match credentials.len() {
            0 => failures.push(FieldError::invalid(at, credentials, "gmsaCredentialSpec cannot be an empty string")),
            length if length > CREDENTIALS_MAX => {
                failures.push(FieldError::invalid(
                    at,
                    credentials,
                    format!("gmsaCredentialSpec size must be under {} KiB", CREDENTIALS_MAX >> 10),
                ));
            }
            _ => {}
        }
    }
    if !options.contains_key("runAsUserName") {
        return;
    }
    let name = text(options, "runAsUserName");
    let (domain, user) = name.split_once('\\').map_or((None, name), |(domain, user)| (Some(domain), user));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let net_bios = |domain: &str| {
        domain.len() <= 15 && !domain.is_empty() && !domain.starts_with('.') && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
    };
    let why = match domain {
        _ if name.is_empty() => "runAsUserName cannot be an empty string",
        _ if name.chars().any(char::is_control) => "runAsUserName cannot contain control characters",
        Some(_) if user.contains('\\') => "runAsUserName cannot contain more than one backslash",
        Some(domain) if domain.len() >= 256 => "runAsUserName's Domain length must be under 256 characters",
        Some(domain) if !net_bios(domain) && !domain.split('.').all(label) => {
            "runAsUserName's Domain doesn't match the NetBIOS nor the DNS format"
        }
        _ if user.is_empty() => "runAsUserName's User cannot be empty",
        _ if user.len() > 104 => "runAsUserName's User length must not be longer than 104 characters",
        _ if user.chars().all(|c| c == '.' || c == ' ') => "runAsUserName's User cannot contain only periods or spaces",
        _ if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) => {
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
        }
        _ => return,
    };
    failures.push(FieldError::invalid(path.key("runAsUserName"), name, why));
}
