//! Modules in registries, for programs that do not speak to registries themselves.
//!
//! ```text
//! pintle-artifact fetch REFERENCE@sha256:... [--keep FOLDER] [--plain-http HOST:PORT]...   the module, on standard output
//! pintle-artifact push REFERENCE FILE [--plain-http HOST:PORT]...                          prints the reference to pull it by
//! pintle-artifact signatures REFERENCE@sha256:... [--plain-http HOST:PORT]...                  its signatures, a JSON array
//! pintle-artifact sign REFERENCE@sha256:... KEYFILE [--plain-http HOST:PORT]...                signs it with an unencrypted PKCS#8 key
//! ```
//! Credentials for the registry are taken from `PINTLE_REGISTRY_USER` and `PINTLE_REGISTRY_PASSWORD`.

use std::{error::Error, io::Write, path::PathBuf, process::ExitCode};

use pintle_runtime_bridge::{Credentials, ImageRef, PullOptions, image::artifact};

const USAGE: &str = "usage: pintle-artifact fetch REFERENCE [--keep FOLDER] | push REFERENCE FILE | signatures REFERENCE | sign REFERENCE KEYFILE; \
                     [--plain-http HOST:PORT]...";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let (mut plain, mut keep, mut options) = (Vec::new(), None, PullOptions::default());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().cloned().ok_or(USAGE);
        match word.as_str() {
            "--keep" => keep = Some(PathBuf::from(value()?)),
            "--plain-http" => options.plain_http.push(value()?),
            _ => plain.push(word.as_str()),
        }
    }
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    options.credentials = variable("PINTLE_REGISTRY_USER")
        .map(|username| Credentials { username, password: variable("PINTLE_REGISTRY_PASSWORD").unwrap_or_default() });
    match plain[..] {
        ["fetch", reference] => {
            let module = artifact::fetch(&ImageRef::parse(reference)?, &options, keep.as_deref()).await?;
            Ok(std::io::stdout().write_all(&module)?)
        }
        ["push", reference, file] => {
            let module = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
            println!("{}", artifact::push(&ImageRef::parse(reference)?, &options, module.into()).await?);
            Ok(())
        }
        ["signatures", reference] => {
            println!("{}", serde_json::to_string(&artifact::signatures(&ImageRef::parse(reference)?, &options).await?)?);
            Ok(())
        }
        ["sign", reference, file] => {
            let key = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
            Ok(artifact::sign(&ImageRef::parse(reference)?, &options, &key).await?)
        }
        _ => Err(USAGE.into()),
    }
}
