//! `fixtures DIR`: checks every record that `DIR/index.json` lists, a line each; exit code 1 if any is outside.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: expected a folder with an index.json");
        return ExitCode::from(2);
    };
    match dcff_tests::fixtures::check(&dir, &mut |line| println!("{line}")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
