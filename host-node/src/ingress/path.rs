//! Paths of requests: one spelling before anything is decided by them.
//!
//! Rules: escapes of unreserved characters are undone (RFC 3986, 6.2.2.2), other escapes are written in upper case and stay, `.` and `..` are
//! resolved (5.2.4), repeated slashes stay. What is matched is what is sent on, so that a backend that decodes more cannot be reached by a
//! path that the rules did not see. A path that is no path (no leading slash, a broken escape) is refused.

/// The one spelling of a path; `None`: it is none.
pub fn normal(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let plain = unescaped(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = plain[1..].split('/').peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            other => segments.push(other),
        }
    }
    Some(format!("/{}", segments.join("/")))
}

/// Escapes of unreserved characters undone, others in upper case.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if byte == 0 {
            return None;
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&digits.to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

/// What follows the prefix, if the path lies at or below it; by whole segments: `/a` and `/a/` hold `/a` and `/a/b`, not `/ab`.
pub fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// The path with its prefix replaced.
pub fn replaced(path: &str, prefix: &str, by: &str) -> String {
    let rest = below(path, prefix).unwrap_or(path);
    let joined = format!("{}{rest}", by.trim_end_matches('/'));
    if joined.starts_with('/') { joined } else { format!("/{joined}") }
}

/// The values of a query, decoded: `a=1&b=%20`.
pub fn query(text: &str) -> Vec<(String, String)> {
    let decoded = |part: &str| {
        let mut bytes = Vec::with_capacity(part.len());
        let mut rest = part.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            let digits = tail.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
            match (first, digits) {
                (b'%', Some(byte)) => {
                    bytes.push(byte);
                    rest = &tail[2..];
                    continue;
                }
                (b'+', _) => bytes.push(b' '),
                (other, _) => bytes.push(*other),
            }
            rest = tail;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (decoded(name), decoded(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (path, expected) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a//b/", Some("/a//b/")),
            ("/%61/%2e%2E/b", Some("/b")),
            ("/a/./b/.", Some("/a/b/")),
            ("/a/b/..", Some("/a/")),
            ("/../../etc", Some("/etc")),
            ("/a%2fb%c3%a4", Some("/a%2Fb%C3%A4")),
            ("/a%", None),
            ("/a%zz", None),
            ("/a%ä1", None),
            ("/a%00", None),
            ("a", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(normal(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_prefix_holds_whole_segments() {
        // The table of https://kubernetes.io/docs/concepts/services-networking/ingress/#examples
        for (prefix, path, holds) in [
            ("/", "/any/path", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/", true),
            ("/foo/", "/foo", true),
            ("/foo/", "/foo/", true),
            ("/aaa/bb", "/aaa/bbb", false),
            ("/aaa/bbb", "/aaa/bbb", true),
            ("/aaa/bbb/", "/aaa/bbb", true),
            ("/aaa/bbb", "/aaa/bbb/", true),
            ("/aaa/bbb", "/aaa/bbb/ccc", true),
            ("/aaa/bbb", "/aaa/bbbxyz", false),
            ("/aaa", "/ccc", false),
        ] {
            assert_eq!(below(path, prefix).is_some(), holds, "{prefix} {path}");
        }
    }

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_tells() {
        // The table of ReplacePrefixMatch in the Gateway API's HTTPPathModifier.
        for (path, prefix, by, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ] {
            assert_eq!(replaced(path, prefix, by), expected, "{path} {prefix} {by}");
        }
    }

    #[test]
    fn a_query_is_decoded() {
        let found = query("a=1&b=%20x+y&c&a=%zz&%");
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(found, [("a", "1"), ("b", " x y"), ("c", ""), ("a", "%zz"), ("%", "")]);
    }
}
