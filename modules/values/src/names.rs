//! Formats of names, labels and keys. Each check answers with what is wrong, in a sentence; `None` means nothing.

/// Bytes of a DNS label.
pub const LABEL_MAX: usize = 63;
/// Bytes of a DNS subdomain, and of most objects' names.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL: &str = "a lowercase RFC 1123 label consists of lower case letters, digits and '-', and starts and ends with a letter or digit (such as 'my-name' or '123-abc')";
const LABEL_1035: &str = "a DNS-1035 label consists of lower case letters, digits and '-', starts with a letter and ends with a letter or digit (such as 'my-name' or 'abc-123')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain consists of lower case letters, digits, '-' and '.', and starts and ends with a letter or digit (such as 'example.com')";
const NAME_PART: &str = "name part consists of letters, digits, '-', '_' and '.', and starts and ends with a letter or digit (such as 'MyName' or 'my.name' or '123-abc')";
const LABEL_VALUE: &str = "a valid label is empty or consists of letters, digits, '-', '_' and '.', and starts and ends with a letter or digit (such as 'MyValue' or 'my_value' or '12345')";
const CONFIG_KEY: &str =
    "a valid config key consists of letters, digits, '-', '_' and '.' (such as 'key.name' or 'KEY_NAME' or 'key-name')";
const ENV_NAME: &str = "a valid environment variable name consists only of printable ASCII characters other than '='";
const DOMAIN_PREFIX: &str = "should be a domain-prefixed path (such as 'acme.io/foo')";

/// A check of one text.
pub type Check = fn(&str) -> Option<String>;

/// A label of a domain name: `web-1`.
pub fn dns_label(text: &str) -> Option<String> {
    too_long(text, LABEL_MAX).or_else(|| (!is_label(text)).then(|| LABEL.to_owned()))
}

/// A label that starts with a letter: names of services.
pub fn dns_1035_label(text: &str) -> Option<String> {
    let starts = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    too_long(text, LABEL_MAX).or_else(|| (!starts || !is_label(text)).then(|| LABEL_1035.to_owned()))
}

/// Labels joined by dots: names of most objects.
pub fn dns_subdomain(text: &str) -> Option<String> {
    too_long(text, SUBDOMAIN_MAX).or_else(|| (!text.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned()))
}

/// Anything that can be one segment of a path: names of roles.
pub fn path_segment(text: &str) -> Option<String> {
    if text == "." || text == ".." {
        return Some(format!("may not be '{text}'"));
    }
    ['/', '%'].into_iter().find(|c| text.contains(*c)).map(|c| format!("may not contain '{c}'"))
}

/// `[prefix/]name`: keys of labels and annotations, names of conditions and extended resources.
pub fn qualified_name(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!("a qualified name consists of an optional DNS subdomain prefix, a '/', and a name: {NAME_PART}")];
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let mut problems = Vec::new();
    match prefix {
        Some("") => problems.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => problems.extend(dns_subdomain(prefix).map(|why| format!("prefix part {why}"))),
        None => {}
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    }
    problems.extend(too_long(name, LABEL_MAX).map(|why| format!("name part {why}")));
    if !is_word(name) {
        problems.push(NAME_PART.to_owned());
    }
    problems
}

/// [`qualified_name`] as one sentence.
pub fn qualified(text: &str) -> Option<String> {
    qualified_name(text).into_iter().next()
}

/// [`qualified`], in small or capital letters.
pub fn any_case(text: &str) -> Option<String> {
    qualified(&text.to_lowercase())
}

/// A value of a label.
pub fn label_value(text: &str) -> Option<String> {
    too_long(text, LABEL_MAX).or_else(|| (!text.is_empty() && !is_word(text)).then(|| LABEL_VALUE.to_owned()))
}

/// A key of a config map or secret.
pub fn config_key(text: &str) -> Option<String> {
    if text == "." || text.starts_with("..") {
        return Some(format!("must not be '.' and not start with '..', but is '{text}'"));
    }
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    too_long(text, SUBDOMAIN_MAX).or_else(|| (!fits).then(|| CONFIG_KEY.to_owned()))
}

/// A name of an environment variable.
pub fn env_name(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    (!fits).then(|| ENV_NAME.to_owned())
}

/// A name of a port: an IANA service name.
pub fn port_name(text: &str) -> Option<String> {
    if text.len() > 15 {
        return Some("must be no more than 15 characters".to_owned());
    }
    let bytes = text.as_bytes();
    if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
        return Some("must contain only lower case letters, digits and hyphens (-)".to_owned());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        return Some("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        return Some("must not contain consecutive hyphens".to_owned());
    }
    (text.starts_with('-') || text.ends_with('-')).then(|| "must not begin or end with a hyphen".to_owned())
}

/// A finalizer: a qualified name, with a prefix unless it is one of the server's own.
pub fn finalizer(text: &str) -> Option<String> {
    const OWN: [&str; 4] = ["kubernetes", "orphan", "foregroundDeletion", "customresourcecleanup.apiextensions.k8s.io"];
    if let Some(why) = qualified(text) {
        return Some(why);
    }
    (!text.contains('/') && !OWN.contains(&text)).then(|| "name is neither a standard finalizer name nor is it fully qualified".to_owned())
}

/// A domain with a path: `acme.io/foo`.
pub fn domain_prefixed_path(text: &str) -> Option<String> {
    let fits = text.split_once('/').is_some_and(|(domain, path)| !path.is_empty() && dns_subdomain(domain).is_none());
    (!fits).then(|| DOMAIN_PREFIX.to_owned())
}

/// A kernel parameter: words joined by dots or slashes.
pub fn sysctl(text: &str) -> Option<String> {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let word = |word: &str| {
        let inner = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        inner && edge(word.bytes().next()) && edge(word.bytes().last())
    };
    let fits = text.len() <= SUBDOMAIN_MAX && text.split(['.', '/']).all(word);
    (!fits).then(|| format!("must have at most {SUBDOMAIN_MAX} characters and be words joined by '.' or '/'"))
}

/// A subdomain whose first label may be `*`: hosts of an ingress.
pub fn wildcard_subdomain(text: &str) -> Option<String> {
    dns_subdomain(text.strip_prefix("*.").unwrap_or(text))
}

/// A subdomain of at least three labels: names of webhooks.
pub fn fully_qualified(text: &str) -> Option<String> {
    let few = || (text.split('.').count() < 3).then(|| "should be a domain with at least three segments separated by dots".to_owned());
    dns_subdomain(text).or_else(few)
}

/// A driver: a subdomain of one label's length, small or capital letters.
pub fn driver(text: &str) -> Option<String> {
    too_long(text, LABEL_MAX).or_else(|| dns_subdomain(&text.to_lowercase()))
}

/// A pool of devices: subdomains joined by slashes.
pub fn pool(text: &str) -> Option<String> {
    too_long(text, SUBDOMAIN_MAX).or_else(|| text.split('/').find_map(dns_subdomain))
}

/// A name of a device's attribute or capacity: an identifier of C, with its driver's domain before it or without.
pub fn attribute(text: &str) -> Option<String> {
    const IDENTIFIER: &str =
        "a valid C identifier starts with a letter or '_', followed by letters, digits or '_' (such as 'my_name' or 'MY_NAME')";
    let (domain, name) = text.split_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
    let fits = name.bytes().enumerate().all(|(index, b)| b == b'_' || b.is_ascii_alphabetic() || index > 0 && b.is_ascii_digit());
    match domain {
        _ if name.contains('/') => Some("must not contain more than one slash".to_owned()),
        Some("") => Some("the domain must not be empty".to_owned()),
        Some(_) if name.is_empty() => Some("the name must not be empty".to_owned()),
        _ => domain.and_then(driver).or_else(|| too_long(name, 32)).or_else(|| (name.is_empty() || !fits).then(|| IDENTIFIER.to_owned())),
    }
}

/// [`attribute`] with its domain.
pub fn full_attribute(text: &str) -> Option<String> {
    let bare = || (!text.contains('/')).then(|| "a fully qualified name must be a domain and a name separated by a slash".to_owned());
    attribute(text).or_else(bare)
}

/// A resource that is not Kubernetes' own: `example.com/gpu`.
pub fn extended_resource(text: &str) -> Option<String> {
    let own = !text.contains('/')
        || text.starts_with("requests.")
        || text.split('/').next().is_some_and(|domain| domain.ends_with("kubernetes.io"));
    (own || qualified(&format!("requests.{text}")).is_some()).then(|| "must be a valid extended resource name".to_owned())
}

/// A UUID in its normal form.
pub fn uuid(text: &str) -> Option<String> {
    let fits = text.len() == 36
        && text.bytes().enumerate().all(|(index, b)| match index {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        });
    const FORM: &str =
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
    (!fits).then(|| FORM.to_owned())
}

/// A version of semver.org 2.0.0.
pub fn semver(text: &str) -> Option<String> {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part.len() == 1 || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let early = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    let fits = core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(early))
        && build.is_none_or(|build| build.split('.').all(word));
    (!fits).then(|| "must be a string compatible with semver.org spec 2.0.0".to_owned())
}

/// An IPv4 or IPv6 address.
pub fn ip_address(text: &str) -> Option<String> {
    text.parse::<std::net::IpAddr>().is_err().then(|| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())
}

/// An address with a prefix length.
pub fn cidr(text: &str) -> Option<String> {
    let fits = text.split_once('/').is_some_and(|(address, length)| {
        let max = match address.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|length| length <= max)
    });
    (!fits).then(|| "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned())
}

fn too_long(text: &str, max: usize) -> Option<String> {
    (text.len() > max).then(|| format!("must be no more than {max} bytes"))
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}
