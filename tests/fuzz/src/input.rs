//! How a target divides its bytes: a first byte that chooses, and parts with a zero between them, which no text that is read here has.

use pintle_api::{Resource, Schema};

/// The first byte and the others; zero when there is none.
pub fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// What stands before the first zero, and after it.
pub fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

/// Text, where it is.
pub fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// The built-in resources that have a protobuf form.
pub fn resources() -> Vec<&'static Resource> {
    pintle_api::resources().iter().filter(|resource| pintle_api::proto::has_form(resource)).collect()
}

/// The resource that a byte chooses.
pub fn resource(choice: u8) -> &'static Resource {
    let all = resources();
    all[usize::from(choice) % all.len()]
}

/// The byte that chooses the resource of this kind, and the resource.
pub fn chosen(kind: &str) -> (u8, &'static Resource) {
    let all = resources();
    let at = all.iter().position(|resource| resource.kind == kind).unwrap_or_else(|| panic!("no kind {kind}"));
    (u8::try_from(at).unwrap_or_default(), all[at])
}

/// The table that all targets read.
pub fn schema() -> &'static Schema {
    Schema::builtin()
}

/// Seeds from texts.
pub fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}
