//! Image references: parsing and normal form.
//!
//! Invariant: what parses contains only characters of the distribution specification's grammar, so it can be put into
//! a URL or a file name's hash without further thought.

use std::fmt;

use crate::error::{ImageError, Result};

const NAME_MAX: usize = 255;
const DEFAULT_REGISTRY: &str = "docker.io";

/// A parsed and normalised reference: `registry/repository:tag` or `...@sha256:...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

impl ImageRef {
    /// Parses a reference as Kubernetes users write it (`busybox`, `ghcr.io/a/b:1`, `127.0.0.1:5000/x@sha256:...`).
    ///
    /// # Errors
    /// [`crate::ImageError::InvalidName`] (kubelet's InvalidImageName).
    pub fn parse(text: &str) -> Result<Self> {
        Self::try_parse(text).map_err(|reason| ImageError::InvalidName { name: text.to_owned(), reason: reason.to_owned() }.into())
    }

    fn try_parse(text: &str) -> std::result::Result<Self, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|d| !valid_digest(d)) {
            return Err("invalid digest");
        }
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|t| !valid_tag(t)) {
            return Err("invalid tag");
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{name}")),
        };
        if !valid_registry(registry) {
            return Err("invalid registry");
        }
        // Of the whole path, so that what parses also parses in its normal form.
        if path.len() > NAME_MAX {
            return Err("repository name must not be longer than 255 characters");
        }
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err("repository name must be lowercase");
        }
        if !path.split('/').all(valid_component) {
            return Err("invalid reference format");
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.to_owned(), repository: path, tag, digest: digest.map(str::to_owned) })
    }

    /// `registry/repository` without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The registry, as `docker.io` or `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The digest, if the reference has one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The tag; `latest` was put in when neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// `sha256:` and 64 hexadecimal digits.
pub(crate) fn valid_digest(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len()) && word(tag.as_bytes()[0]) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_fine = port.is_none_or(|p| p.parse::<u16>().is_ok());
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_fine = match v6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    port_fine && host_fine
}

/// Lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn valid_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    word(first)
        && word(last)
        && bytes.split(word).all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let check = |text: &str, expected: &str| {
            assert_eq!(ImageRef::parse(text).map(|r| r.to_string()).expect(text), expected);
        };
        check("busybox", "docker.io/library/busybox:latest");
        check("a/b:1.2_x-y", "docker.io/a/b:1.2_x-y");
        check("127.0.0.1:5000/web", "127.0.0.1:5000/web:latest");
        check("localhost/x--y/z__w", "localhost/x--y/z__w:latest");
        check(&format!("ghcr.io/a@{digest}"), &format!("ghcr.io/a@{digest}"));
        check(&format!("a:t@{digest}"), &format!("docker.io/library/a:t@{digest}"));
        check("[::1]:5000/a", "[::1]:5000/a:latest");
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in
            ["", "Busybox", "a b", "a//b", "/a", "a:", "a:-x", "a@sha256:12", "a@md5:1", "x..y/a", "a_._b", "-a", "h:99999/a", "a/../b"]
        {
            assert!(ImageRef::parse(text).is_err(), "{text:?}");
        }
    }
}
