//! Optimisers: the same bits for any number of threads and on every instruction set, and what they refuse.

mod common;

use candle_core::{Device, Result, Tensor};
use common::*;
use dcff_nn::{AdamConfig, Isa, SgdConfig, adamax_steps, adamw_steps, sgd_step, sgd_steps};

/// Longer than one thread's piece of work, and not whole vectors.
const LENGTHS: [usize; 3] = [100_003, 7, 40_000];

/// Parameters and what two steps of each optimiser make of them.
fn stepped() -> Vec<Vec<u32>> {
    let mut random = Random(5);
    let mut made = Vec::new();
    for optimiser in 0..3 {
        let rows: Vec<[Tensor; 4]> = LENGTHS
            .iter()
            .map(|&length| {
                let mut some = || tensor(&random.numbers(length), &[length]);
                let [p, g] = [some(), some()];
                [
                    p.clone(),
                    p.zeros_like().unwrap(),
                    p.zeros_like().unwrap(),
                    g,
                ]
            })
            .collect();
        for step in 1..=2 {
            let four: Vec<[&Tensor; 4]> = rows.iter().map(|row| row.each_ref()).collect();
            let three: Vec<[&Tensor; 3]> = rows.iter().map(|[p, v, _, g]| [p, v, g]).collect();
            match optimiser {
                0 => sgd_steps(&three, &sgd(), 0),
                1 => adamax_steps(&four, &adamax(step), 0),
                _ => adamw_steps(&four, &adamw(step), 0),
            }
            .unwrap();
        }
        made.extend(rows.iter().flatten().map(|t| bits(&numbers(t))));
    }
    made
}

fn sgd() -> SgdConfig {
    SgdConfig {
        lr: 0.1,
        momentum: 0.9,
        weight_decay: 5e-4,
        nesterov: true,
    }
}

fn adamax(step: u64) -> AdamConfig {
    AdamConfig {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-7,
        weight_decay: 1e-4,
        step,
    }
}

fn adamw(step: u64) -> AdamConfig {
    AdamConfig {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.05,
        step,
    }
}

#[test]
fn same_bits_for_any_number_of_threads_and_every_instruction_set() {
    let one = in_pool(1, stepped);
    for threads in [2, 5] {
        assert!(one == in_pool(threads, stepped), "{threads} threads differ");
    }
    for isa in Isa::available() {
        assert!(isa.with(stepped).as_ref() == Some(&one), "{isa:?} differs");
    }
}

/// Of several instances, of a transposed gradient too, each is moved as if it were alone.
#[test]
fn a_gradient_may_lie_in_any_order() -> Result<()> {
    let mut random = Random(6);
    let (p, g) = (random.numbers(12), random.numbers(12));
    let turned = tensor(&g, &[3, 4]).t()?;
    let mut made = Vec::new();
    for gradient in [turned.contiguous()?, turned] {
        let p = tensor(&p, &[4, 3]);
        let (m, u) = (p.zeros_like()?, p.zeros_like()?);
        adamax_steps(&[[&p, &m, &u, &gradient]], &adamax(1), 0)?;
        made.push(numbers(&p));
    }
    assert_eq!(made[0], made[1]);
    Ok(())
}

#[test]
fn a_gradient_that_is_not_a_number_shows() -> Result<()> {
    for step in [adamax_of as fn(&[&Tensor; 4]) -> Result<()>, adamw_of] {
        let [p, m, u] = [1.0, 0.1, 0.2].map(|x| tensor(&[x, x], &[2]));
        step(&[&p, &m, &u, &tensor(&[f32::NAN, 0.1], &[2])])?;
        for t in [&p, &m, &u] {
            let t = numbers(t);
            assert!(t[0].is_nan() && t[1].is_finite(), "{t:?}");
        }
    }
    Ok(())
}

fn adamax_of(row: &[&Tensor; 4]) -> Result<()> {
    adamax_steps(&[*row], &adamax(2), 0)
}

fn adamw_of(row: &[&Tensor; 4]) -> Result<()> {
    adamw_steps(&[*row], &adamw(2), 0)
}

#[test]
fn refuses_shared_memory_and_other_shapes() -> Result<()> {
    let [p, v, g] = [0; 3].map(|_| tensor(&[1.0, -2.0], &[2]));
    let message = |result: Result<()>| {
        let text = result.unwrap_err().to_string();
        text.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        message(sgd_step(&p, &p, &g, &sgd())),
        "sgd_step: expected a velocity with memory of its own, got the parameter's"
    );
    assert_eq!(
        message(sgd_step(&p, &v, &p, &sgd())),
        "sgd_step: expected a gradient with memory of its own, got the parameter's"
    );
    assert_eq!(
        message(adamw_steps(&[[&p, &v, &v, &g]], &adamw(1), 0)),
        "adamw_steps: expected a mean square with memory of its own, got the mean gradient's"
    );
    let short = Tensor::new(&[1f32], &Device::Cpu)?;
    assert_eq!(
        message(adamax_steps(&[[&p, &v, &short, &g]], &adamax(1), 0)),
        "adamax_steps: expected a largest gradient of shape [2], got [1]"
    );
    // Nothing has changed.
    assert_eq!(numbers(&p), [1.0, -2.0]);
    Ok(())
}
