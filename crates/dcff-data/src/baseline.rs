//! What a linear model reaches: the figure that a network has to beat.
//!
//! Softmax regression on pixels (multinomial logistic regression), trained by SGD with momentum on mini-batches:
//!
//! ```text
//! z = W x + b,   loss = -ln softmax(z)[y],   dW = (softmax(z) - onehot(y)) x^T
//! ```

use rayon::prelude::*;

use crate::random::Stream;
use crate::{Normalisation, Splits};

/// Images per step.
const BATCH: usize = 100;
/// Most passes over the training images.
const MOST_EPOCHS: usize = 20;
/// Multiply-adds spent on training, forward and backward: about two seconds on two cores.
const BUDGET: usize = 8_000_000_000;
const MOMENTUM: f32 = 0.9;
/// Times the mean squared length of an image: the curvature that limits the step.
const RATE: f32 = 0.1;

/// Test accuracy in `[0, 1]` of a softmax-linear model on the pixels, without augmentation.
///
/// Deterministic, whatever the number of threads. Takes a few seconds at most: a large training set is passed over less often, a very
/// large one only in part (the first images of a seeded order).
pub fn linear_baseline(splits: &Splits) -> f64 {
    let (train, test) = (&splits.train, &splits.test);
    let inputs = train.image_len();
    let classes = train.classes().len();
    let tables = centred_tables(&Normalisation::of(train));
    let plane = train.shape()[1] * train.shape()[2];
    let features = |image: &[u8]| -> Vec<f32> {
        image
            .chunks_exact(plane)
            .zip(&tables)
            .flat_map(|(plane, table)| plane.iter().map(|&byte| table[usize::from(byte)]))
            .collect()
    };

    let per_image = 2 * inputs * classes;
    let affordable = (BUDGET / per_image).max(BATCH);
    let images = train.len().min(affordable);
    let epochs = (affordable / images).clamp(1, MOST_EPOCHS);

    // One row per class: weights, then the bias.
    let mut model = vec![vec![0.0f32; inputs + 1]; classes];
    let mut velocity = model.clone();
    let steps = epochs * images.div_ceil(BATCH);
    let mut step = 0;
    let mut stream = Stream::new(0);
    let mut order: Vec<usize> = (0..train.len()).collect();
    stream.shuffle(&mut order);
    order.truncate(images);
    for _ in 0..epochs {
        stream.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let examples: Vec<(Vec<f32>, Vec<f32>)> = batch
                .par_iter()
                .map(|&index| {
                    let x = features(train.image(index));
                    let mut error = softmax(&logits(&model, &x));
                    error[train.labels()[index] as usize] -= 1.0;
                    (x, error)
                })
                .collect();
            // Falls linearly to zero, so that the result does not hang on the last few batches.
            let rate = RATE / inputs as f32 * (1.0 - step as f32 / steps as f32);
            // Every class sums its batch in the same order, so threads do not change the result.
            model
                .par_iter_mut()
                .zip(&mut velocity)
                .enumerate()
                .for_each(|(class, (row, velocity))| {
                    velocity.iter_mut().for_each(|v| *v *= MOMENTUM);
                    for (x, error) in &examples {
                        let scale = error[class] / batch.len() as f32;
                        for (v, x) in velocity.iter_mut().zip(x) {
                            *v += scale * x;
                        }
                        velocity[inputs] += scale;
                    }
                    for (weight, v) in row.iter_mut().zip(&*velocity) {
                        *weight -= rate * v;
                    }
                });
            step += 1;
        }
    }

    let correct = (0..test.len())
        .into_par_iter()
        .filter(|&index| {
            let logits = logits(&model, &features(test.image(index)));
            // The first of equal ones, as everywhere.
            let best = (0..classes)
                .rev()
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            best == Some(test.labels()[index] as usize)
        })
        .count();
    correct as f64 / test.len() as f64
}

fn centred_tables(normalisation: &Normalisation) -> Vec<[f32; 256]> {
    let table =
        |(mean, std): (&f32, &f32)| std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std);
    normalisation
        .mean
        .iter()
        .zip(&normalisation.std)
        .map(table)
        .collect()
}

fn logits(model: &[Vec<f32>], x: &[f32]) -> Vec<f32> {
    model
        .iter()
        .map(|row| dot(&row[..x.len()], x) + row[x.len()])
        .collect()
}

/// Sixteen partial sums: the compiler may vectorise, and the order of additions is fixed.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|z| (z - highest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, SyntheticConfig, synthetic};

    /// Images `[1, 2, 2]` of noise whose class depends on two pixels.
    fn splits(label: impl Fn(&[u8]) -> bool) -> Splits {
        let set = |n: usize, seed| {
            let mut stream = Stream::new(seed);
            let pixels: Vec<u8> = (0..4 * n).map(|_| stream.below(256) as u8).collect();
            let labels = pixels
                .chunks(4)
                .map(|image| u32::from(label(image)))
                .collect();
            let classes = vec!["no".to_owned(), "yes".to_owned()];
            Dataset::new("toy", [1, 2, 2], classes, labels, pixels).unwrap()
        };
        Splits::new(set(2_000, 1), set(500, 2)).unwrap()
    }

    #[test]
    fn learns_what_is_linear_and_nothing_else() {
        let linear = linear_baseline(&splits(|image| image[1] > image[2]));
        assert!(linear > 0.95, "{linear}");
        let exclusive = linear_baseline(&splits(|image| (image[1] > 127) != (image[2] > 127)));
        assert!((0.4..0.6).contains(&exclusive), "{exclusive}");
    }

    #[test]
    fn does_not_depend_on_threads() {
        let splits = synthetic(&SyntheticConfig {
            train: 300,
            test: 100,
            seed: 1,
        })
        .unwrap();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| linear_baseline(&splits))
        };
        assert_eq!(with(1), with(3));
    }
}
