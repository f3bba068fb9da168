//! `pintle-replay RECORD COMPONENT`: what COMPONENT would have done where RECORD says what another version did. Ends with 0 when that is the same, with 1
//! when it is not, with 2 when it cannot be known. `pintle module replay` runs it.

use pintle_host::engine::Engine;
use std::{error::Error, path::Path, process::ExitCode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [record, component] = &words[..] else {
        eprintln!("usage: pintle-replay RECORD COMPONENT");
        return ExitCode::from(2);
    };
    match run(record, component).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}{}", error.source().map_or_else(String::new, |cause| format!(": {cause}")));
            ExitCode::from(2)
        }
    }
}

async fn run(record: &str, component: &str) -> Result<usize, Box<dyn Error>> {
    let (header, entries) = pintle_record::read(Path::new(record))?;
    let wasm = std::fs::read(component).map_err(|error| format!("{component}: {error}"))?;
    let report = pintle_replay::replay(&Engine::new(None)?, &header, &entries, wasm).await?;
    println!("{}: {} calls of {}, asked again of {}", header.module, report.calls, header.digest, report.digest);
    for difference in &report.differences {
        println!("call {} at {}:", difference.call, difference.at_millis);
        difference.lines.iter().for_each(|line| println!("  {line}"));
    }
    match report.differences.len() {
        0 => println!("all were answered as recorded"),
        count => println!("{count} were answered otherwise"),
    }
    Ok(report.differences.len())
}
