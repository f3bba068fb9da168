//! Formats of single texts that are no names: paths, resources, schedules. Each check answers with what is wrong, in a sentence; `None` means nothing.

use crate::names::{dns_subdomain, extended_resource, qualified};
use crate::quantity::Quantity;

/// `why`, unless it fits.
fn unless(fits: bool, why: &str) -> Option<String> {
    (!fits).then(|| why.to_owned())
}

/// A path without steps upwards.
pub fn no_backsteps(text: &str) -> Option<String> {
    unless(text.split('/').all(|step| step != ".."), "must not contain '..'")
}

/// A path that stays below where it starts.
pub fn local_path(text: &str) -> Option<String> {
    unless(!text.starts_with('/'), "must be a relative path").or_else(|| no_backsteps(text))
}

/// A [`local_path`] that leaves names with two dots in front to the node.
pub fn own_path(text: &str) -> Option<String> {
    local_path(text).or_else(|| unless(!text.starts_with(".."), "must not start with '..'"))
}

/// A path from the root.
pub fn absolute_path(text: &str) -> Option<String> {
    unless(text.starts_with('/'), "must be an absolute path")
}

/// A path that something is mounted at; a colon divides paths.
pub fn mount_path(text: &str) -> Option<String> {
    unless(!text.contains(':'), "must not contain ':'")
}

/// A node of a storage network: `iqn.2001-04.com.example:disk`, `eui.` and 16, or `naa.` and 32 letters and digits.
pub fn iscsi_name(text: &str) -> Option<String> {
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    let word = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let iqn = |rest: &str| {
        let (date, name) = rest.split_once('.')?;
        let (year, month) = date.split_once('-')?;
        let (domain, disk) = name.split_once(':')?;
        let named = !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        Some(digits(year, 4) && digits(month, 2) && named && !disk.is_empty() && !disk.contains([',', ';', '*', '&', '$', '|', ' ']))
    };
    let fits = match text.split_once('.') {
        Some(("iqn", rest)) => iqn(rest) == Some(true),
        Some(("eui", rest)) => word(rest, 16),
        Some(("naa", rest)) => word(rest, 32),
        _ => return Some("must be valid format starting with iqn, eui, or naa".to_owned()),
    };
    unless(fits, "must be valid format")
}

/// A name of a header of HTTP.
pub fn header_name(text: &str) -> Option<String> {
    let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    unless(fits && !text.is_empty(), "a valid HTTP header consists of letters, digits and '-' (such as 'X-Header-Name')")
}

/// A domain that names are looked up in: a subdomain, with underscores too, that may end in a dot, or the root.
pub fn search_domain(text: &str) -> Option<String> {
    (text != ".").then(|| dns_subdomain(&text.strip_suffix('.').unwrap_or(text).replace('_', "x")))?
}

/// An operator of a label selector.
pub fn label_operator(text: &str) -> Option<String> {
    unless(matches!(text, "In" | "NotIn" | "Exists" | "DoesNotExist"), "not a valid selector operator")
}

/// An operator of a node selector.
pub fn node_operator(text: &str) -> Option<String> {
    label_operator(text).filter(|_| !matches!(text, "Gt" | "Lt"))
}

/// How a StatefulSet makes its pods.
pub fn pod_management(text: &str) -> Option<String> {
    unless(matches!(text, "OrderedReady" | "Parallel"), "must be 'OrderedReady' or 'Parallel'")
}

/// A whole number of 32 bits.
pub fn whole_number(text: &str) -> Option<String> {
    unless(text.parse::<i32>().is_ok(), "must be a 32bit integer")
}

/// Whether the resource is Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether pods may be promised more of it than there is.
pub fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// Whether there are no parts of it.
pub fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name) || extended_resource(name).is_none()
}

const COUNTED: [&str; 9] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const MEASURED: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// What a container can ask for.
pub fn container_resource(name: &str) -> Option<String> {
    qualified(name).or_else(|| {
        if name.contains('/') {
            return unless(is_native(name) || extended_resource(name).is_none(), "doesn't follow extended resource name standard");
        }
        let fits = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        unless(fits, "must be a standard resource for containers")
    })
}

/// What a quota can limit.
pub fn quota_resource(name: &str) -> Option<String> {
    qualified(name).or_else(|| {
        let pages = ["hugepages-", "requests.hugepages-"].iter().any(|prefix| name.starts_with(prefix));
        let fits = pages || name.contains('/') || COUNTED.contains(&name) || MEASURED.contains(&name);
        unless(fits, "must be a standard resource for quota")
    })
}

/// What can be limited for one object.
pub fn plain_resource(name: &str) -> Option<String> {
    quota_resource(name).filter(|_| name != "storage").map(|_| "must be a standard resource type or fully qualified".to_owned())
}

/// Whether a quota of these pods (or claims) can limit the resource.
pub fn is_scoped(scope: &str, name: &str) -> bool {
    let bare = name.trim_start_matches("requests.").trim_start_matches("limits.");
    match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => name == "requests.storage" || name == "persistentvolumeclaims",
        _ => name == "pods" || matches!(bare, "cpu" | "memory" | "ephemeral-storage") || bare.starts_with("hugepages-"),
    }
}

/// Units in which the downward API tells a resource.
pub fn divisor(resource: &str, divisor: &str) -> Option<String> {
    const UNITS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let short = Quantity::parse(divisor)?.canonical();
    if short == "0" {
        return None;
    }
    let cpu = resource.ends_with(".cpu");
    let fits = if cpu { matches!(short.as_str(), "1" | "1m") } else { UNITS.contains(&short.as_str()) };
    let units = if cpu { "1m, 1".to_owned() } else { UNITS.join(", ") };
    (!fits).then(|| format!("must be one of {units} with {resource}"))
}

/// A path of an ingress that is matched step by step.
pub fn plain_steps(text: &str) -> Option<String> {
    let within = ["//", "/./", "/../", "%2f", "%2F"].into_iter().find(|part| text.contains(part));
    let last = ["/..", "/."].into_iter().find(|part| text.ends_with(part));
    let within = within.map(|part| format!("must not contain '{part}'"));
    absolute_path(text).or(within).or_else(|| last.map(|part| format!("cannot end with '{part}'")))
}

/// Index intervals: `0,3-5`, from the lowest to the highest.
pub fn indexes(text: &str) -> Option<String> {
    let mut last = -1;
    for part in text.split(',') {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(end)) = (first.parse::<i64>(), end.parse::<i64>()) else {
            return Some(format!("cannot convert string to integer for index: {part:?}"));
        };
        if first <= last || end < first || first == end && part.contains('-') {
            return Some(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        last = end;
    }
    None
}

/// Text of at most 128 bytes.
pub fn short(text: &str) -> Option<String> {
    unless(text.len() <= 128, "can have at most 128 characters")
}

/// Text of at most 1024 bytes.
pub fn note(text: &str) -> Option<String> {
    unless(text.len() <= 1024, "can have at most 1024 characters")
}

/// A base URL of HTTPS, without anything that follows the path.
pub fn https_url(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix("https://") else { return Some("'https' is the only allowed URL scheme".to_owned()) };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    unless(!host.is_empty(), "host must be specified")
        .or_else(|| unless(!host.contains('@'), "user information is not permitted in the URL"))
        .or_else(|| unless(!rest.contains('#'), "fragments are not permitted in the URL"))
        .or_else(|| unless(!rest.contains('?'), "query parameters are not permitted in the URL"))
}

/// Five fields of cron syntax, or one of the `@` words.
pub fn schedule(text: &str) -> Option<String> {
    const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    const FIELDS: [(i64, i64, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];
    if text.contains("TZ") {
        return Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    if text.starts_with('@') {
        let every = text.strip_prefix("@every ").is_some_and(|duration| !duration.trim().is_empty());
        return unless(every || WORDS.contains(&text), "unrecognized descriptor");
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields of cron syntax, found {}", fields.len()));
    }
    let wrong =
        fields.iter().zip(FIELDS).find(|(field, (min, max, names))| !field.split(',').all(|part| in_range(part, *min, *max, names)));
    wrong.map(|(field, (min, max, _))| format!("{field:?} is no list of values, ranges and steps from {min} to {max}"))
}

/// `*`, `5`, `1-5`, `mon-fri`, each with `/step` or without.
fn in_range(part: &str, min: i64, max: i64, names: &[&str]) -> bool {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    let value = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).and_then(|index| i64::try_from(index).ok());
        named.map(|index| index + min).or_else(|| text.parse().ok()).filter(|value| (min..=max).contains(value))
    };
    let fits = match range.split_once('-') {
        _ if matches!(range, "*" | "?") => true,
        Some((first, last)) => value(first).zip(value(last)).is_some_and(|(first, last)| first <= last),
        None => value(range).is_some(),
    };
    fits && step.is_none_or(|step| step.parse::<u32>().is_ok_and(|step| step > 0))
}

/// Text without space around it.
pub fn unpadded(text: &str) -> Option<String> {
    unless(text.trim() == text, "must not be padded with whitespace")
}

/// How much an event matters.
pub fn event_type(text: &str) -> Option<String> {
    unless(matches!(text, "Normal" | "Warning"), "must be Normal or Warning")
}

/// A name of an image.
pub fn unpadded_image(text: &str) -> Option<String> {
    unless(text.trim() == text, "must not have leading or trailing whitespace")
}

/// Some text.
pub fn not_empty(text: &str) -> Option<String> {
    unless(!text.is_empty(), "field can not be empty")
}

/// An option that is not named like Kubernetes' own.
pub fn own_option(text: &str) -> Option<String> {
    let domain = format!(".{}", text.split('/').next().unwrap_or_default().to_lowercase());
    unless(![".kubernetes.io", ".k8s.io"].iter().any(|own| domain.ends_with(own)), "kubernetes.io and k8s.io namespaces are reserved")
}

/// A path of a service: from the root, each step a subdomain.
pub fn service_path(text: &str) -> Option<String> {
    let steps = text.trim_start_matches('/').trim_end_matches('/');
    unless(text.starts_with('/'), "must start with a '/'")
        .or_else(|| unless(!text.contains("//"), "segment may not be empty"))
        .or_else(|| steps.split('/').filter(|step| !step.is_empty()).find_map(dns_subdomain))
}

/// A field of a pod that has a name in the downward API.
pub fn pod_field(text: &str) -> Option<String> {
    let spec = ["host", "nodeName", "restartPolicy", "serviceAccountName", "schedulerName"];
    let status = ["phase", "podIP", "podIPs", "hostIP", "hostIPs"];
    let metadata = ["name", "namespace", "uid", "labels", "annotations"];
    let fits = text.ends_with("']")
        || [("spec.", &spec), ("status.", &status), ("metadata.", &metadata)]
            .iter()
            .any(|(part, known)| text.strip_prefix(part).is_some_and(|field| known.contains(&field)));
    (!fits).then(|| format!("error converting fieldPath: field label not supported: {text}"))
}
