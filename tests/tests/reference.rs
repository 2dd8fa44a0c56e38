//! Reference numbers of the authors' program; their folder is found through `DCFF_FIXTURES_DIR`.

use std::path::PathBuf;

use candle_core::Device;

#[test]
fn every_record_is_within_its_tolerance() {
    let Some(dir) = std::env::var_os("DCFF_FIXTURES_DIR").map(PathBuf::from) else {
        println!("skipped: DCFF_FIXTURES_DIR is not set");
        return;
    };
    for records in ["dcff", "kdfs", "pss-net"] {
        let dir = dir.join(records);
        if !dir.exists() {
            println!("skipped: there is no {}", dir.display());
            continue;
        }
        let mut lines = Vec::new();
        let sound = dcff_tests::fixtures::check(&dir, &Device::Cpu, &mut |line| {
            lines.push(line.to_owned())
        })
        .unwrap();
        assert!(sound, "{}", lines.join("\n"));
        println!("{}", lines.join("\n"));
    }
}
