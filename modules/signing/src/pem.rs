//! PEM, as far as keys need it (RFC 7468): one block of a label.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The bytes of the first block of this label.
pub fn block(text: &str, label: &str) -> Option<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let inside = text.split_once(&begin)?.1.split_once(&end)?.0;
    let compact: String = inside.split_ascii_whitespace().collect();
    STANDARD.decode(compact).ok()
}

/// A block of this label.
pub fn text(label: &str, bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let lines: Vec<&str> = (0..encoded.len()).step_by(64).map(|at| &encoded[at..(at + 64).min(encoded.len())]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
