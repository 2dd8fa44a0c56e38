//! Artefacts made to do harm, through the built program: one line that names file and field, exit code 2, nothing written, and no
//! more memory than a sound artefact takes.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dcff_tests::program::{copy_folder, dcff_within, outcome, run, succeeded, write_images};
use serde_json::{Value, json};

/// Address space for every command, in KiB. Training's own libraries are mapped too.
const MEMORY: u64 = 1_000_000;
/// Larger than that, and larger than any file that is accepted here.
const HUGE: u64 = 1 << 33;

/// A folder with `images` and a finished `run`; made once.
fn workshop() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        write_images(&folder.path().join("images"), 4, 2);
        let (images, out) = (path("images"), path("run"));
        let fixed = "train --arch resnet20 --rates 0.9 --epochs 1 --batch-size 4 --hold-out 0";
        let args = fixed.split(' ').chain(["--data", &images, "--out", &out]);
        succeeded(run(args));
        folder
    });
    folder.path()
}

/// A copy of the run, to be spoilt.
struct Victim {
    folder: tempfile::TempDir,
}

impl Victim {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&workshop().join("run"), &folder.path().join("run"));
        Self { folder }
    }

    fn weights(&self) -> PathBuf {
        self.folder.path().join("run/compact/model.safetensors")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("run/compact/config.json")
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let mut config = serde_json::from_slice(&std::fs::read(self.config()).unwrap()).unwrap();
        edit(&mut config);
        std::fs::write(self.config(), config.to_string()).unwrap();
    }

    /// Replaces the header of the weights' file.
    fn edit_header(&self, edit: impl FnOnce(&mut Value)) {
        let bytes = std::fs::read(self.weights()).unwrap();
        let (mut header, data) = header(&bytes);
        edit(&mut header);
        let text = header.to_string().into_bytes();
        let length = (text.len() as u64).to_le_bytes();
        let parts = [&length[..], &text, data];
        std::fs::write(self.weights(), parts.concat()).unwrap();
    }

    /// Makes every value of the tensor `name` this one.
    fn fill(&self, name: &str, value: f32) {
        let mut bytes = std::fs::read(self.weights()).unwrap();
        let (header, data) = header(&bytes);
        let start = bytes.len() - data.len();
        let [from, to] = [0, 1].map(|i| {
            let offset = header[name]["data_offsets"][i].as_u64().unwrap();
            start + offset as usize
        });
        for number in bytes[from..to].chunks_exact_mut(4) {
            number.copy_from_slice(&value.to_le_bytes());
        }
        std::fs::write(self.weights(), bytes).unwrap();
    }

    /// The arguments of every command that reads an artefact.
    fn commands(&self) -> [(&'static str, Vec<String>); 5] {
        let here = |name: &str| self.folder.path().join(name).display().to_string();
        let shop = |name: &str| workshop().join(name).display().to_string();
        let (run, artefact, out) = (here("run"), here("run/compact"), here("out"));
        let image = shop("images/test/down/000.png");
        let export = |format: &str| {
            let args = ["export", &artefact, "--format", format, "--out", &out];
            args.map(str::to_owned).to_vec()
        };
        let images = shop("images");
        [
            ("predict", vec!["predict".into(), artefact.clone(), image]),
            (
                "eval",
                ["eval", &artefact, "--data", &images]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            ("export pytorch", export("pytorch")),
            ("export onnx", export("onnx")),
            (
                "publish",
                ["publish", &run, "a/b", "--dry-run", "--out", &out]
                    .map(str::to_owned)
                    .to_vec(),
            ),
        ]
    }

    /// Every command refuses the artefact with a line that holds all of `expected`, and leaves no trace.
    fn refused(&self, expected: &[&str]) {
        let before = listing(self.folder.path());
        for (name, args) in self.commands() {
            let said = outcome(dcff_within(MEMORY).args(args));
            let line = &said.stderr;
            assert_eq!(said.code, Some(2), "{name}: {line}");
            assert_eq!(line.lines().count(), 1, "{name}: {line}");
            assert!(!line.chars().any(|c| c.is_control() && c != '\n'), "{line}");
            for part in expected {
                assert!(line.contains(part), "{name}: expected '{part}' in: {line}");
            }
            assert_eq!(said.stdout, "", "{name}");
            assert_eq!(listing(self.folder.path()), before, "{name}");
        }
    }
}

/// The header of a safetensors file, and the bytes that follow it.
fn header(bytes: &[u8]) -> (Value, &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(length);
    (serde_json::from_slice(header).unwrap(), data)
}

/// All that is below `folder`: paths and sizes.
fn listing(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut listing(&path));
        }
        let size = std::fs::symlink_metadata(&path).unwrap().len();
        found.insert(path, size);
    }
    found
}

fn enlarge(file: &Path) {
    // A hole: it takes no space on the disk.
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(HUGE).unwrap();
}

#[test]
fn the_memory_that_refusals_may_take_is_enough_for_a_sound_artefact() {
    let victim = Victim::new();
    for (name, args) in victim.commands() {
        let said = outcome(dcff_within(MEMORY).args(args));
        assert_eq!(said.code, Some(0), "{name}: {}", said.stderr);
        // `publish` wants the folder for itself.
        let _ = std::fs::remove_dir_all(victim.folder.path().join("out"));
    }
}

#[test]
fn weights_that_are_no_numbers() {
    for (value, shown) in [
        (f32::NAN, "got NaN"),
        (f32::INFINITY, "got inf"),
        (f32::NEG_INFINITY, "got -inf"),
    ] {
        let victim = Victim::new();
        victim.fill("bn1.bias", value);
        victim.refused(&["model.safetensors: bn1.bias: expected finite values", shown]);
    }
    let victim = Victim::new();
    victim.fill("bn1.running_var", -1.0);
    victim
        .refused(&["model.safetensors: bn1.running_var: expected variances of at least 0, got -1"]);
}

#[test]
fn a_header_that_promises_more_than_there_is() {
    for length in [1u64 << 32, 1 << 40, u64::MAX] {
        let victim = Victim::new();
        let mut bytes = std::fs::read(victim.weights()).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        std::fs::write(victim.weights(), bytes).unwrap();
        victim.refused(&["model.safetensors: not a sound safetensors file: "]);
    }
    // A tensor that lies outside of the file, and one that is none of the network's.
    let victim = Victim::new();
    victim.edit_header(|header| header["conv1.weight"]["data_offsets"][1] = json!(1u64 << 40));
    victim.refused(&["model.safetensors: not a sound safetensors file: "]);
    let victim = Victim::new();
    victim.edit_header(|header| {
        let header = header.as_object_mut().unwrap();
        let tensor = header.remove("bn1.num_batches_tracked").unwrap();
        header.insert("../../outside".into(), tensor);
    });
    victim.refused(&["model.safetensors: ../../outside: config.json has no such tensor"]);
}

#[test]
fn files_that_are_cut_off_too_large_or_no_files() {
    for part in [0, 7, 500, 20_000] {
        let victim = Victim::new();
        let bytes = std::fs::read(victim.weights()).unwrap();
        std::fs::write(victim.weights(), &bytes[..part]).unwrap();
        victim.refused(&["model.safetensors: not a sound safetensors file: "]);
    }
    let victim = Victim::new();
    let text = std::fs::read(victim.config()).unwrap();
    std::fs::write(victim.config(), &text[..text.len() / 2]).unwrap();
    victim.refused(&["config.json: ", "EOF"]);

    let victim = Victim::new();
    enlarge(&victim.config());
    victim.refused(&["config.json: expected at most 16777216 bytes, got 8589934592"]);
    let victim = Victim::new();
    enlarge(&victim.weights());
    victim.refused(&["model.safetensors: expected at most ", "got 8589934592"]);

    #[cfg(unix)]
    for place in [Victim::weights, Victim::config] {
        let victim = Victim::new();
        let file = place(&victim);
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        victim.refused(&[
            file.file_name().unwrap().to_str().unwrap(),
            "expected a file",
        ]);
    }
}

#[test]
fn descriptions_of_networks_that_cannot_be() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &[&str]); 8] = [
        (
            |c| c["architecture"]["spaces"][0]["width"] = json!(1u64 << 60),
            &["architecture: ", "expected maps of at most"],
        ),
        (
            |c| {
                // The maps of this stage are small.
                let spaces = c["architecture"]["spaces"].as_array_mut().unwrap();
                let third = spaces.iter_mut().find(|space| space["name"] == "layer3");
                third.unwrap()["width"] = json!(1 << 13);
                let layers = c["architecture"]["layers"].as_array_mut().unwrap();
                layers.last_mut().unwrap()["features"] = json!(1 << 20);
            },
            &["expected at most 2147483648 parameters in all"],
        ),
        (
            |c| {
                let size = json!([3, 1u64 << 40, 1u64 << 40]);
                c["architecture"]["input"] = size.clone();
                c["pretrained_cfg"]["input_size"] = size;
            },
            &["architecture: ", "expected an input of 1 to"],
        ),
        (
            |c| c["architecture"]["layers"][0]["kernel"] = json!(u64::MAX),
            &["architecture: conv1: expected kernel, stride and padding of at most"],
        ),
        (
            |c| c["architecture"]["layers"][0]["name"] = json!("../../outside"),
            &["architecture: ../../outside: expected a name of letters"],
        ),
        (
            |c| c["architecture"]["layers"][0]["name"] = json!("\u{1b}[2J\nnext"),
            &["architecture: \\u{1b}[2J next: expected a name of letters"],
        ),
        (
            |c| c["pretrained_cfg"]["std"] = json!([0.0, 0.0, 0.0]),
            &["pretrained_cfg: expected 3 finite means and positive deviations"],
        ),
        (
            |c| c["pretrained_cfg"]["num_classes"] = json!(1u64 << 40),
            &["pretrained_cfg: expected 3 classes and labels"],
        ),
    ];
    for (edit, expected) in cases {
        let victim = Victim::new();
        victim.edit_config(edit);
        let expected: Vec<&str> = ["config.json: "].iter().chain(expected).copied().collect();
        victim.refused(&expected);
    }
}

#[test]
fn what_is_finite_in_the_file_and_not_in_the_logits() {
    let victim = Victim::new();
    victim.fill("conv1.weight", f32::MAX);
    victim.fill("bn1.weight", f32::MAX);
    for (name, args) in &victim.commands()[..2] {
        let said = outcome(dcff_within(MEMORY).args(args));
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{name}");
        assert!(said.stderr.contains("expected"), "{name}: {}", said.stderr);
        assert!(said.stderr.contains("finite"), "{name}: {}", said.stderr);
    }
}

#[test]
fn labels_do_not_reach_the_terminal_as_they_are() {
    let victim = Victim::new();
    victim.edit_config(|c| {
        for label in c["pretrained_cfg"]["label_names"].as_array_mut().unwrap() {
            *label = json!("\u{1b}[2Jgone");
        }
    });
    let (_, args) = &victim.commands()[0];
    let said = succeeded(outcome(dcff_within(MEMORY).args(args)));
    assert!(said.stdout.contains("\\u{1b}[2Jgone"), "{}", said.stdout);
    assert!(!said.stdout.contains('\u{1b}'));
}
