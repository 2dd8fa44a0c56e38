//! A teacher beside any method: what it teaches changes the run, its passes are counted, and it is refused where it does not fit.

use dcff_tests::program::{
    json, read, refused, rows, run, same_files, short_run, succeeded, workshop, write_images,
};

const WEIGHTS: &str = "compact/model.safetensors";

#[test]
fn any_network_of_the_same_images_teaches() {
    let (dir, images) = workshop();
    let folder = |name: &str| dir.path().join(name);
    let teacher = folder("teacher");
    // Deeper than those that learn.
    let more = ["--arch", "resnet32", "--method", "dense", "--epochs", "1"];
    succeeded(run(short_run(&images, &teacher, &more)));
    let teacher = teacher.display().to_string();

    let narrow = ["--rates", "0.5", "--epochs", "2"];
    let taught = [&narrow[..], &["--distil", &teacher]].concat();
    succeeded(run(short_run(&images, &folder("alone"), &narrow)));
    succeeded(run(short_run(&images, &folder("taught"), &taught)));
    let nothing = [&taught[..], &["--distil-weight", "0"]].concat();
    succeeded(run(short_run(&images, &folder("nothing"), &nothing)));
    let rows = |name: &str| read(&folder(name).join("metrics.jsonl"));
    assert!(rows("alone") == rows("nothing"), "a weight of 0");
    assert!(rows("alone") != rows("taught"), "a weight of 1");

    // A pass of the teacher for every image and epoch.
    let summary = |name: &str| json(&folder(name).join("summary.json"));
    let spent = |name: &str| summary(name)["training_macs"].as_u64().unwrap();
    let whole = summary("teacher")["macs"]["full"].as_u64().unwrap();
    assert_eq!(spent("taught"), spent("alone") + 2 * 48 * whole);

    // What is written of the run names the teacher by its hash, and not where it lay.
    let artefact = json(&folder("taught").join("compact/config.json"));
    let distil = &artefact["provenance"]["config"]["distil"];
    assert_eq!(
        (&distil["temperature"], &distil["teacher"]["run"]),
        (&4.0.into(), &"teacher".into())
    );

    // A dense stage that was taught is another one.
    let prune = ["--method", "prune", "--rates", "0.5", "--epochs", "2"];
    let own = [&prune[..], &["--distil", &teacher]].concat();
    succeeded(run(short_run(&images, &folder("own"), &own)));
    let from = folder("own").display().to_string();
    let taken = [&prune[..], &["--dense-from", &from]].concat();
    let outcome = run(short_run(&images, &folder("taken"), &taken));
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("distil"), "{}", outcome.stderr);
}

#[cfg(unix)]
#[test]
fn a_taught_run_that_was_killed_ends_the_same() {
    use dcff_tests::program::ended_after_a_checkpoint;
    let (dir, images) = workshop();
    let folder = |name: &str| dir.path().join(name);
    let teacher = folder("teacher");
    let more = ["--method", "dense", "--epochs", "1"];
    succeeded(run(short_run(&images, &teacher, &more)));
    let teacher = teacher.display().to_string();
    let more = ["--rates", "0.5", "--epochs", "4", "--distil", &teacher];
    succeeded(run(short_run(&images, &folder("whole"), &more)));
    let broken = folder("broken");
    ended_after_a_checkpoint("-KILL", short_run(&images, &broken, &more), &broken);
    succeeded(run([
        "train".as_ref(),
        "--resume".as_ref(),
        broken.as_os_str(),
    ]));
    same_files(&folder("whole"), &broken, &["metrics.jsonl", WEIGHTS]);

    // A teacher that is not where it was: nothing of a finished run is touched, and it goes on with the teacher elsewhere.
    let moved = folder("moved");
    std::fs::rename(folder("teacher"), &moved).unwrap();
    let kept = ["config.toml", "summary.json"].map(|file| read(&broken.join(file)));
    let on = |more: &[&str]| {
        let resume = [
            "train",
            "--epochs",
            "5",
            "--resume",
            broken.to_str().unwrap(),
        ];
        run([&resume[..], more].concat())
    };
    let outcome = on(&[]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(kept == ["config.toml", "summary.json"].map(|file| read(&broken.join(file))));
    succeeded(on(&["--distil", moved.to_str().unwrap()]));
    assert_eq!(rows(&broken.join("metrics.jsonl")).len(), 5);
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_before_anything_is_written() {
    let (dir, images) = workshop();
    let teacher = dir.path().join("teacher");
    let more = ["--method", "dense", "--epochs", "1"];
    succeeded(run(short_run(&images, &teacher, &more)));
    let teacher = teacher.display().to_string();
    let nowhere = dir.path().join("nowhere").display().to_string();
    // Two of the three classes.
    let fewer = dir.path().join("fewer");
    write_images(&fewer, 4, 2);
    for split in ["train", "test"] {
        std::fs::remove_dir_all(fewer.join(split).join("down")).unwrap();
    }
    // As many classes, and others.
    let others = dir.path().join("others");
    write_images(&others, 4, 2);
    for split in ["train", "test"] {
        let folder = others.join(split);
        std::fs::rename(folder.join("down"), folder.join("up")).unwrap();
    }
    let dense = ["--method", "dense", "--epochs", "1"];
    let kdfs = ["--method", "kdfs", "--epochs", "4"];
    for (images, method, more, expected) in [
        (&images, &dense, vec!["--distil", &nowhere], "--distil: "),
        (
            &fewer,
            &dense,
            vec!["--distil", &teacher],
            "and 2 classes, got resnet20 for images of [3, 32, 32] and 3 classes",
        ),
        (
            &images,
            &kdfs,
            vec!["--distil", &teacher],
            "--distil: the steps of the method kdfs are its own",
        ),
        (
            &images,
            &dense,
            vec!["--distil", &teacher, "--distil-temperature", "0"],
            "--distil-temperature: expected 0.01 to 1000000, got 0",
        ),
        (
            &others,
            &dense,
            vec!["--distil", &teacher],
            "expected a teacher of the same classes, such as 'up', got one of 'down'",
        ),
        (
            &images,
            &dense,
            vec!["--distil-weight", "2"],
            "--distil-weight: expected a teacher beside it (--distil), got none",
        ),
    ] {
        let out = dir.path().join("out");
        let line = refused(run(short_run(images, &out, &[&method[..], &more].concat())));
        assert!(line.contains(expected), "{line}");
        assert!(!out.exists());
    }
}
