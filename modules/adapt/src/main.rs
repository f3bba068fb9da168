//! `pintle-adapt GUEST OUT`: what `pintle module adapt` runs. The adapters lie beside this program, in `adapters/`.

use std::{env, error::Error, ffi::OsString, fs, process::ExitCode};

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().skip(1).collect();
    match &words[..] {
        [guest, out] => match run(guest, out) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error}", guest.display());
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("pintle-adapt GUEST OUT");
            ExitCode::FAILURE
        }
    }
}

fn run(guest: &OsString, out: &OsString) -> Result<(), Box<dyn Error>> {
    let adapters = env::current_exe()?.with_file_name("adapters");
    Ok(fs::write(out, pintle_adapt::adapt(fs::read(guest)?, &adapters)?)?)
}
