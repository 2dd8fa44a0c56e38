//! `fixtures DIR [DEVICE]`: checks every record that `DIR/index.json` lists, a line each; exit code 1 if any is outside.
//!
//! Training runs are replayed on the device: cpu unless given, or with the feature `cuda` a GPU as in `cuda:0`.

use std::path::PathBuf;
use std::process::ExitCode;

use dcff_nn::DeviceChoice;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: expected a folder with an index.json");
        return ExitCode::from(2);
    };
    let device = match std::env::args().nth(2).as_deref().unwrap_or("cpu").parse() {
        Ok(choice) => DeviceChoice::open(choice).map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    let device = match device {
        Ok((device, _)) => device,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match dcff_tests::fixtures::check(&dir, &device, &mut |line| println!("{line}")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
