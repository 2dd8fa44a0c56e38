//! The readers on the real files, where `DCFF_DATA_DIR` names a folder that holds them; otherwise the tests say so and pass.

use std::path::PathBuf;

use dcff_data::{Dataset, Loaded, locate};

/// The dataset, if the variable is set and its files are there.
fn load(name: &str) -> Option<Loaded> {
    let Some(folder) = std::env::var_os("DCFF_DATA_DIR") else {
        println!("skipped: DCFF_DATA_DIR is not set");
        return None;
    };
    // A variable that points nowhere is a mistake, not a reason to skip.
    Some(
        locate(name, &[PathBuf::from(folder)])
            .unwrap()
            .load()
            .unwrap(),
    )
}

/// The files may hold PNG (exact) or a JPEG copy (close), whose decoders differ by a level or two.
fn assert_pixel(set: &Dataset, image: usize, (x, y): (usize, usize), expected: [u8; 3]) {
    for (channel, expected) in expected.into_iter().enumerate() {
        let got = set.image(image)[channel * 1024 + y * 32 + x];
        assert!(
            got.abs_diff(expected) <= 4,
            "({x}, {y}) channel {channel}: {got}, expected {expected}"
        );
    }
}

/// Pixels of the first test image, a cat, as Pillow decodes a JPEG copy: `image.getpixel((x, y))`.
///
/// Corners on either side of the diagonal: a transposed image fails.
fn assert_first_test_image(set: &Dataset) {
    assert_eq!(set.labels()[..10], [3, 6, 7, 0, 3, 1, 7, 2, 2, 9]);
    assert_eq!(set.classes()[set.labels()[0] as usize], "cat");
    assert_pixel(set, 0, (31, 0), [61, 69, 105]);
    assert_pixel(set, 0, (0, 31), [202, 213, 215]);
    assert_pixel(set, 0, (10, 20), [62, 53, 56]);
    assert_pixel(set, 0, (20, 10), [6, 13, 31]);
}

#[test]
fn cifar10_is_complete_and_untransposed() {
    let Some(Loaded { splits, .. }) = load("cifar10") else {
        return;
    };
    assert_eq!((splits.train.len(), splits.test.len()), (50_000, 10_000));
    for (set, per_class) in [(&splits.train, 5_000), (&splits.test, 1_000)] {
        for class in 0..10 {
            assert_eq!(
                set.labels().iter().filter(|&&label| label == class).count(),
                per_class
            );
        }
    }
    assert_first_test_image(&splits.test);
}

#[test]
fn the_subset_is_balanced_and_untransposed() {
    let Some(Loaded { splits, info, .. }) = load("cifar10-subset") else {
        return;
    };
    assert_eq!((splits.train.len(), splits.test.len()), (5_000, 1_000));
    for class in 0..10 {
        assert_eq!(
            splits
                .train
                .labels()
                .iter()
                .filter(|&&label| label == class)
                .count(),
            500
        );
        assert_eq!(
            splits
                .test
                .labels()
                .iter()
                .filter(|&&label| label == class)
                .count(),
            100
        );
    }
    assert_eq!(
        info.classes[splits.train.labels()[0] as usize],
        "automobile"
    );
    assert_pixel(&splits.train, 0, (31, 0), [39, 28, 42]);
    assert_pixel(&splits.train, 0, (0, 31), [15, 13, 27]);
    assert_first_test_image(&splits.test);
}
