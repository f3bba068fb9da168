//! Developer commands. Being assembled.
mod wit;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    if std::env::args().any(|a| a == "--check") { wit::check(&root) } else { wit::regenerate(&root) }
}
